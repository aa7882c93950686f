"""What happens to a document, as values that can be taken back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.document.records import Nucleus
from napari_deepretina.postprocess.settings import PostprocessSettings

K = TypeVar("K")
V = TypeVar("V")
Index = tuple[int, ...]
"""A plane of a stack; () is the only one of a single image."""


@dataclass(frozen=True)
class Change:
    """One step, with what was before: applied backwards, it is undone to the byte.

    Attributes
    ----------
    what : it did, in words for a person.
    where : (N,) int64, rising places in the flattened labels.
    before, after : (N,) int32, the labels there.
    nuclei : by id, the record before and after; None is no record.
    settings : by plane, those of post-processing before and after.
    """

    what: str
    where: NDArray[np.int64]
    before: NDArray[np.int32]
    after: NDArray[np.int32]
    nuclei: Mapping[int, tuple[Nucleus | None, Nucleus | None]] = field(default_factory=dict)
    settings: Mapping[Index, tuple[PostprocessSettings, PostprocessSettings]] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether it changes nothing."""
        return not (len(self.where) or self.nuclei or any(a != b for a, b in self.settings.values()))

    @property
    def nbytes(self) -> int:
        """Memory that it takes, about."""
        return self.where.nbytes + self.before.nbytes + self.after.nbytes + 200 * len(self.nuclei)

    def backwards(self) -> Change:
        """The change that undoes this one."""
        return Change(
            self.what,
            self.where,
            self.after,
            self.before,
            {label: (after, before) for label, (before, after) in self.nuclei.items()},
            {index: (after, before) for index, (before, after) in self.settings.items()},
        )


def joined(steps: Sequence[Change]) -> Change:
    """Several steps as one, called like the last; what comes back to what it was is left out."""
    every = np.concatenate([step.where for step in steps])
    where, first = np.unique(every, return_index=True)
    last = len(every) - 1 - np.unique(every[::-1], return_index=True)[1]
    before = np.concatenate([step.before for step in steps])[first]
    after = np.concatenate([step.after for step in steps])[last]
    moved = before != after
    nuclei: dict[int, tuple[Nucleus | None, Nucleus | None]] = {}
    settings: dict[Index, tuple[PostprocessSettings, PostprocessSettings]] = {}
    for step in steps:
        nuclei = _chained(nuclei, step.nuclei)
        settings = _chained(settings, step.settings)
    return Change(steps[-1].what, where[moved], before[moved], after[moved], nuclei, settings)


def _chained(one: Mapping[K, tuple[V, V]], other: Mapping[K, tuple[V, V]]) -> dict[K, tuple[V, V]]:
    """Pairs of before and after of two steps as those of one."""
    joined = dict(one)
    for key, (before, after) in other.items():
        joined[key] = (joined[key][0] if key in joined else before, after)
    return {key: pair for key, pair in joined.items() if pair[0] != pair[1]}


def numbered(ids: Sequence[int]) -> str:
    """Nuclei by their ids, in words."""
    return f"nucleus {ids[0]}" if len(ids) == 1 else f"nuclei {', '.join(map(str, ids))}"
