"""Judging a network while it trains: score, losses, a picture, and the best weights kept."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

from napari_deepretina import __version__
from napari_deepretina.data.augmentation import Augmentation
from napari_deepretina.data.crops import CropStream, Decoded, collate
from napari_deepretina.data.sample import Dataset
from napari_deepretina.errors import UserError
from napari_deepretina.export.tiff import overlay, write_image, write_labels
from napari_deepretina.instances.labels import sizes_of
from napari_deepretina.model.architecture import Architecture
from napari_deepretina.model.header import WeightsInfo, normalisation_of
from napari_deepretina.model.network import Network
from napari_deepretina.training.check import spread
from napari_deepretina.training.events import EventLog
from napari_deepretina.training.recipe import Recipe
from napari_deepretina.training.validate import Verdict, validate

LOSS_CROPS = 16
"""Crops of validation images whose losses are averaged."""
STILL = Augmentation(
    scale=(1, 1), aspect=1, rotation=0, flips=False, gamma=1, brightness=0, contrast=0, colour=0, grey=0,
    invert=0, noise=0, blur=0,
)  # fmt: skip
"""No change but the crop."""


class Judge:
    """Scores a network on the validation images.

    Also leaves ``sample/image.tif`` and ``sample/labels.tif``: the first validation image, and what the
    network makes of it now.
    """

    def __init__(self, val: Dataset, info: WeightsInfo, out: Path, log: EventLog, recipe: Recipe) -> None:
        self._val, self._info, self._out, self._log = val, info, out, log
        self._places = spread(len(val), recipe.validate_images)
        self._crop = recipe.stages[0].crop
        self._seed = recipe.seed

    def __call__(self, network: Network, step: int) -> Verdict:
        """Judge once, and log it."""
        begun = time.perf_counter()
        verdict = validate(network, self._info, self._val, self._places)
        losses = self._losses(network)
        self._log.write(
            "validation",
            step,
            score=verdict.score,
            **verdict.kept,
            score_threshold=verdict.settings.score,
            **losses,
            seconds=time.perf_counter() - begun,
        )
        image, labels = self._val[self._places[0]].image, verdict.labels
        if not (self._out / "sample" / "image.tif").exists():
            write_image(image, self._out / "sample" / "image.tif")
        write_labels(labels, self._out / "sample" / "labels.tif")
        self._log.picture("sample", overlay(image, labels), step)
        return verdict

    @torch.no_grad()
    def _losses(self, network: Network) -> dict[str, float]:
        """Mean losses on the same crops each time, batch-norm with the statistics it has."""
        stream = CropStream(
            Decoded(self._val, network.architecture),
            size=self._crop,
            augmentation=STILL,
            seed=self._seed,
            length=min(LOSS_CROPS, 4 * len(self._val)),
        )
        device = next(network.parameters()).device
        network.answer_losses()
        sums: dict[str, float] = {}
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                for k in range(len(stream)):
                    batch = collate([stream[k]])
                    if isinstance(batch, UserError):
                        raise batch
                    batch = batch.to(device)
                    for name, value in network(batch.images, batch.targets).items():
                        sums[name] = sums.get(name, 0.0) + value.item() / len(stream)
        finally:
            network.eval()
        return {**sums, "loss": sum(sums.values())}


def describe(recipe: Recipe, network: Network, start: WeightsInfo | None, train: Dataset) -> WeightsInfo:
    """The header of the weights to be; some hundred training images tell the usual diameter."""
    return WeightsInfo(
        name=recipe.name,
        architecture=network.architecture,
        normalisation=normalisation_of(network.architecture),
        diameter=start.diameter if start else typical_diameter(train, network.architecture),
        data=f"{getattr(train, 'title', '')} ({len(train)} images)".strip(),
        postprocess=start.postprocess if start else {},
        rescoring=start.rescoring if start else None,
        recipe=recipe.name,
        version=__version__,
    )


def is_trained(network: Network, info: WeightsInfo) -> bool:
    """Whether weights know the classes already, so that scoring them before training tells something."""
    return bool(info.score) and info.architecture.classes == network.architecture.classes


def typical_diameter(dataset: Dataset, architecture: Architecture, *, most: int = 100) -> float:
    """Median diameter of the nuclei, as discs of their area, in pixels of the network's input."""
    diameters = []
    for labels in (dataset[i].labels for i in spread(len(dataset), most)):
        areas = sizes_of(labels)[1]
        zoom = architecture.usual_scale(labels.shape)
        diameters.append(2 * np.sqrt(areas / np.pi) * zoom)
    joined = np.concatenate(diameters) if diameters else np.zeros(0)
    return float(np.round(np.median(joined), 1)) if len(joined) else 32.0
