"""After teaching, scores mean something else: how much higher or lower they must be, seen on corrections."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.instances import RawInstances
from napari_deepretina.model.rescoring import Rescoring
from napari_deepretina.postprocess.pairs import highest_iou
from napari_deepretina.teaching.corrections import Corrections

UNTOUCHED = 0.3
"""How much a nucleus counts that the network is sure of and nobody touched, beside one that is right."""
RELUCTANCE = 10.0
"""Precision of the belief that nothing must change, in units of one correction. People correct what was
missed more than what was wrong, so that corrections by themselves would make scores too high: images with
few nuclei would fill with mistakes."""
ROUNDS = 30


def known_of(raw: RawInstances, corrections: Corrections) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Which detections (N,) are nuclei, and how surely that is known (N,), 0 for not at all."""
    present = np.unique(corrections.labels)
    doubtful = np.setdiff1d(present[present > 0], np.concatenate([corrections.right, corrections.sure]))
    right, sure, rest = (
        highest_iou(raw.boxes, corrections.boxes_of(ids))
        for ids in (corrections.right, corrections.sure, doubtful)
    )
    wrong = highest_iou(raw.boxes, corrections.wrong)
    known = np.zeros(len(raw))
    clear = (right < 0.3) & (rest < 0.1)
    known[clear & (sure < 0.3) & (wrong >= 0.4)] = 1
    known[clear & (sure < 0.1) & (right > 0.05)] = 1
    known[sure >= 0.6] = UNTOUCHED
    known[right >= 0.5] = 1
    return (sure >= 0.6) | (right >= 0.5), known


def moved(
    rescoring: Rescoring, seen: Sequence[tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64]]]
) -> Rescoring:
    """The same rescoring with its last bias moved to what corrections say, by maximum a posteriori.

    Parameters
    ----------
    seen : for each part of an image, scores that the rescoring gives to detections, which of them are nuclei,
        and how surely that is known.
    """
    scores, hits, weights = (np.concatenate([np.zeros(0), *column]) for column in zip(*seen, strict=True))
    scores = np.clip(scores, 1e-6, 1 - 1e-6)
    logits = np.log(scores / (1 - scores))
    shift = 0.0
    for _ in range(ROUNDS):  # Newton's steps; the function is convex
        chance = 1 / (1 + np.exp(-(logits + shift)))
        slope = float((weights * (chance - hits)).sum()) + RELUCTANCE * shift
        bend = float((weights * chance * (1 - chance)).sum()) + RELUCTANCE
        shift -= slope / bend
    *rest, bias = rescoring.output
    return rescoring.model_copy(update={"output": (*rest, round(bias + shift, 5))})
