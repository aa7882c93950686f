"""What teaching remembers on disk: images with their corrections, as a data set that training reads too."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from napari_deepretina.data.open import open_dataset
from napari_deepretina.data.project import CORRECTIONS, Project
from napari_deepretina.data.reading import Reading
from napari_deepretina.files import write_text
from napari_deepretina.intake import read_json, typed
from napari_deepretina.teaching.corrections import Corrections
from napari_deepretina.teaching.material import Material

if TYPE_CHECKING:
    from napari_deepretina.teaching.teach import Part

SUFFIX = ".taught"
"""Of the folder beside a file of taught heads."""
_DEEP = 65_535
KEPT = Reading(low=(_DEEP / 4,), high=(3 * _DEEP / 4,))
"""How images are kept: what a network is shown, -0.5 to 1.5, over all of 16 bits."""


class _Sample(BaseModel):
    """Of a sample, what neither of its images tells."""

    key: str
    scale: float = Field(gt=0, le=100)
    right: list[int]
    sure: list[int]
    wrong: list[tuple[float, float, float, float]]


class _Samples(BaseModel):
    samples: dict[str, _Sample]


def memory_of(weights: Path) -> Path:
    """The folder beside a file of taught heads; it need not exist."""
    return weights.with_suffix(SUFFIX)


def keep(parts: Sequence[Part], folder: Path) -> None:
    """Write parts of images that were learnt from into a new folder.

    Labels hold the nuclei that are right or that the network was sure of.

    Raises
    ------
    UserError
        If the disk refuses.
    """
    project, told = Project(folder), {}
    for number, part in enumerate(parts, start=1):
        known = part.corrections
        labels = np.where(np.isin(known.labels, [*known.right, *known.sure]), known.labels, 0)
        if not labels.any():  # deleted ones alone teach heads, but are no sample
            continue
        name = project.add(f"{number:03}", _kept(part.reading(part.image)), labels)
        told[name] = _Sample(
            key=part.key, scale=part.scale, right=known.right.tolist(), sure=known.sure.tolist(),
            wrong=known.wrong.tolist(),
        )  # fmt: skip
    write_text(folder / CORRECTIONS, json.dumps(_Samples(samples=told).model_dump(), indent=1))


def recall(folder: Path) -> Iterator[Material]:
    """What was kept in a folder; nothing if it is not there.

    Raises
    ------
    UserError
        If it cannot be read.
    """
    if not (folder / CORRECTIONS).is_file():
        return
    told = typed(_Samples, read_json(folder / CORRECTIONS), str(folder / CORRECTIONS)).samples
    if not told:
        return
    dataset, _ = open_dataset(folder)
    for place, name in enumerate(dataset.names):
        if name in told:
            sample, known = dataset[place], told[name]
            right = np.intersect1d(np.array(known.right, np.int64), sample.labels)
            sure = np.setdiff1d(np.intersect1d(np.array(known.sure, np.int64), sample.labels), right)
            wrong = np.array(known.wrong, np.float32).reshape(-1, 4)
            corrections = Corrections(sample.labels, right, sure, wrong)
            yield Material(known.key, sample.image, corrections, known.scale, KEPT)


def _kept(seen: NDArray[np.float32]) -> NDArray[Any]:
    """(H, W, 3) as the network is shown it, in 16 bits; one channel where all are the same."""
    deep = np.round((seen + 0.5) / 2 * _DEEP).astype(np.uint16)
    return deep[..., 0] if (deep == deep[..., :1]).all() else deep
