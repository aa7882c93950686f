"""Score one set of label images against another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.errors import UserError
from napari_deepretina.evaluation.matching import match
from napari_deepretina.evaluation.scores import Report, score_image


class NamedLabels(Protocol):
    """Label images by name, e.g. `napari_deepretina.data.label_sets.LabelSet`."""

    @property
    def names(self) -> Sequence[str]:
        """In order."""
        ...

    def labels(self, name: str, shape: tuple[int, int] | None = None) -> NDArray[np.int32]:
        """(H, W); the shape is given where the set itself may not know it."""
        ...


def compare(
    truth: NamedLabels, predicted: NamedLabels, *, missing_as_empty: bool = False
) -> tuple[Report, list[str]]:
    """Score predictions against truth, image by image.

    Returns
    -------
    The report, and the names of true images without a prediction.

    Raises
    ------
    UserError
        If no name is in both, a prediction has no truth, or shapes differ.
    """
    have, names = set(predicted.names), set(truth.names)
    if strangers := sorted(have - names):
        raise UserError(f"{len(strangers)} predictions have no truth of the same name, e.g. {strangers[0]!r}")
    missing = [n for n in truth.names if n not in have]
    scores = []
    for name in truth.names:
        if name not in have and not missing_as_empty:
            continue
        try:
            true = truth.labels(name)
        except UserError:
            if name not in have:
                raise
            true = truth.labels(name, predicted.labels(name).shape)
        shape = (true.shape[0], true.shape[1])
        guess = predicted.labels(name, shape) if name in have else np.zeros(shape, np.int32)
        if guess.shape != true.shape:
            raise UserError(f"{name!r}: the prediction is {guess.shape}, the truth {true.shape}")
        scores.append(score_image(match(true, guess), name))
    if not scores:
        raise UserError("no image name is in both sets")
    return Report(tuple(scores)), missing
