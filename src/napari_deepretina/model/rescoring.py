"""A detection's score in the light of its fellows.

The network scores each region by itself. Whether a pale or a tiny thing is a nucleus shows beside the others
of its image: contextual rescoring (Felzenszwalb et al. 2010, *Object detection with discriminatively trained
part-based models*, section 7), here by one small hidden layer over five figures of each detection.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from napari_deepretina.instances import RawInstances
from napari_deepretina.model.architecture import Limits

SURE = 0.5
"""Detections that the network scores so tell what nuclei look like here."""
FEWEST = 3
"""Where fewer are sure, so many of the highest scores tell it."""
FLOOR, NMS = 0.25, 0.5
"""Network score and overlap from which detections are not rescored but left out."""
FAINTEST = 0.02
"""Typical contrasts are held for at least this, in units of the image's range."""


@dataclass(frozen=True)
class Fellows:
    """What nuclei of an image are like: medians.

    Attributes
    ----------
    size : logarithm of the square root of the area in pixels.
    brightness : mean within the mask, the image's range being 0…1.
    contrast : that less the mean of the rest of the box.
    sureness : logit of the network's score.
    """

    size: float
    brightness: float
    contrast: float
    sureness: float = 0.0


def evidence_of(raw: RawInstances, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """What rescoring needs to know of each detection.

    Parameters
    ----------
    raw : with the network's scores.
    pixels : (H, W, 3) float32, the image as `normalise` gives it.

    Returns
    -------
    (N, 5) float32: logit of the score, mean probability within the mask (0…1), then as in `Fellows`.
    """
    grey = pixels.mean(axis=2)
    side = raw.masks.shape[-1]
    steps = (np.arange(side, dtype=np.float32) + 0.5) / side
    low, extent = raw.boxes[:, :2], raw.boxes[:, 2:] - raw.boxes[:, :2]
    x, y = ((low[:, k, None] + steps * extent[:, k, None]).astype(np.int64) for k in (0, 1))
    x, y = np.clip(x, 0, grey.shape[1] - 1), np.clip(y, 0, grey.shape[0] - 1)
    seen = grey[y[:, :, None], x[:, None, :]]
    mask = raw.masks > 127
    count = mask.sum(axis=(1, 2))
    inside = np.maximum(1, count)
    brightness = (seen * mask).sum(axis=(1, 2)) / inside
    around = (seen * ~mask).sum(axis=(1, 2)) / np.maximum(1, side * side - count)
    certainty = (raw.masks / np.float32(255) * mask).sum(axis=(1, 2)) / inside
    area = np.maximum(1, inside / (side * side) * extent.prod(axis=1))
    logit = np.log(raw.scores / (1 - raw.scores + 1e-4))
    columns = [logit, certainty, np.log(area) / 2, brightness, brightness - around]
    return np.stack(columns, axis=1).astype(np.float32)


def fellows_of(evidence: NDArray[np.float32]) -> Fellows | None:
    """What the surest detections are like; None where there are none."""
    if not len(evidence):
        return None
    sure = np.flatnonzero(evidence[:, 0] >= np.log(SURE / (1 - SURE + 1e-4)))
    if len(sure) < FEWEST:
        sure = np.argsort(-evidence[:, 0], kind="stable")[:FEWEST]
    sureness, _, size, brightness, contrast = np.median(evidence[sure], axis=0).tolist()
    return Fellows(size, brightness, contrast, sureness)


def compared(evidence: NDArray[np.float32], fellows: Fellows) -> NDArray[np.float32]:
    """What a score is told from: a detection beside its fellows, then the fellows themselves.

    Returns
    -------
    (N, 8) float32: logit, certainty, size beside the typical one, brightness and contrast in typical
    contrasts; then brightness, contrast and sureness of the fellows, the same for all of an image: where
    nuclei are dark on bright ground, or the network is unsure of all of them, a score means something else.
    """
    contrast = fellows.contrast if abs(fellows.contrast) > FAINTEST else FAINTEST
    return np.stack(
        [
            evidence[:, 0],
            evidence[:, 1],
            evidence[:, 2] - fellows.size,
            np.clip((evidence[:, 3] - fellows.brightness) / contrast, -4, 4),
            np.clip(evidence[:, 4] / contrast, -1, 4),
            *(np.full(len(evidence), v) for v in (fellows.brightness, fellows.contrast, fellows.sureness)),
        ],
        axis=1,
    ).astype(np.float32)


class Rescoring(BaseModel):
    """Learnt figures, kept in the header of a weights file: of five or all inputs, and H hidden units."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: tuple[float, ...] = Field(min_length=5, max_length=8)
    spread: tuple[float, ...] = Field(min_length=5, max_length=8)
    """Mean and standard deviation of the inputs where it was learnt."""
    hidden: tuple[tuple[float, ...], ...]
    """H rows of a weight for each input and a bias, before tanh."""
    output: tuple[float, ...]
    """H weights and a bias, before the logistic function."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        inputs = len(self.mean)
        rows = {len(row) for row in self.hidden}
        if len(self.spread) != inputs or rows != {inputs + 1} or len(self.output) != len(self.hidden) + 1:
            raise ValueError("its figures differ in number")
        if not all(map(math.isfinite, chain(self.mean, self.spread, *self.hidden, self.output))):
            raise ValueError("its figures are infinite or not a number")
        if min(self.spread) <= 0:
            raise ValueError("a standard deviation in it is not above zero")
        return self

    def scores(self, evidence: NDArray[np.float32], fellows: Fellows | None = None) -> NDArray[np.float32]:
        """(N,) probability that a detection is a nucleus and overlaps it by half.

        Parameters
        ----------
        evidence : (N, 5), from `evidence_of`.
        fellows : what nuclei are like here; by default what the surest of these are like.
        """
        fellows = fellows or fellows_of(evidence)
        if fellows is None:
            return np.zeros(0, np.float32)
        inputs = compared(evidence, fellows)[:, : len(self.mean)]
        inputs = (inputs - np.array(self.mean)) / np.array(self.spread)
        hidden, output = np.array(self.hidden), np.array(self.output)
        logits = np.tanh(inputs @ hidden[:, :-1].T + hidden[:, -1]) @ output[:-1] + output[-1]
        return np.asarray(1 / (1 + np.exp(-logits)), np.float32)

    @staticmethod
    def limits(limits: Limits) -> Limits:
        """The same with the floors of what is rescored."""
        return limits.model_copy(update={"score": FLOOR, "nms": NMS})


def learn(inputs: NDArray[Any], hits: NDArray[Any], weights: NDArray[Any], *, units: int = 8) -> Rescoring:
    """Fit to detections of annotated images, by maximum likelihood; the same figures every time.

    Parameters
    ----------
    inputs : (N, 8), from `compared`, or its first columns, at least five.
    hits : (N,) bool, whether each is a true nucleus.
    weights : (N,) how much each counts.
    units : H.
    """
    import torch
    from torch import nn

    mean, spread = inputs.mean(axis=0), inputs.std(axis=0) + 1e-6
    x = torch.tensor((inputs - mean) / spread, dtype=torch.float64)
    y, w = (torch.tensor(np.asarray(v, float)) for v in (hits, weights / weights.mean()))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Linear(inputs.shape[1], units), nn.Tanh(), nn.Linear(units, 1)).double()
    optimizer: torch.optim.Optimizer = torch.optim.LBFGS(
        layers.parameters(), max_iter=500, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(layers(x)[:, 0], y, weight=w)
        loss = loss + 1e-4 * sum((p.square().sum() for p in layers.parameters()), torch.zeros(()))
        torch.autograd.backward(loss)
        return loss.item()

    optimizer.step(closure)
    parameters = [np.round(p.detach().numpy(), 5) for p in layers.parameters()]
    return Rescoring(
        mean=tuple(np.round(mean.astype(np.float64), 5).tolist()),
        spread=tuple(np.round(spread.astype(np.float64), 5).tolist()),
        hidden=tuple(map(tuple, np.concatenate([parameters[0], parameters[1][:, None]], axis=1).tolist())),
        output=(*parameters[2][0].tolist(), float(parameters[3][0])),
    )
