"""Several data sets as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from napari_deepretina.data.sample import Annotations, Dataset, Sample, annotations_of


class JoinedDataset:
    """One data set after the other; a name that an earlier one has gets the number of its set.

    Attributes
    ----------
    class_names : of classes 1, 2, …; where parts tell different ones apart, all of them, each once, or those
        given.
    weights : copies of each image in a round of training, from the weights of the parts.
    title : what people call it.
    """

    def __init__(
        self,
        parts: Sequence[Dataset],
        weights: Sequence[int] | None = None,
        title: str = "",
        class_names: Sequence[str] = (),
    ) -> None:
        self.title = title
        weights = weights or [1] * len(parts)
        self.weights = [w for part, w in zip(parts, weights, strict=True) for _ in range(len(part))]
        names = [tuple(getattr(part, "class_names", ("nucleus",))) for part in parts]
        told = class_names or dict.fromkeys(n for own in names for n in own)
        self.class_names = tuple(told) or ("nucleus",)
        self._classes = {
            id(part): [self.class_names.index(n) + 1 for n in own]
            for part, own in zip(parts, names, strict=True)
            if own != self.class_names
        }
        self._places = [(part, i) for part in parts for i in range(len(part))]
        self.names: Sequence[str] = _named_apart(parts)

    def __len__(self) -> int:
        return len(self._places)

    def annotations(self, index: int) -> Annotations | None:
        """See `annotations_of`."""
        part, place = self._places[index]
        told, known = annotations_of(part, place), self._classes.get(id(part))
        if told is None or known is None:
            return told
        objects = [{**a, "category_id": known[a["category_id"] - 1]} for a in told.objects]
        return replace(told, objects=objects)

    def __getitem__(self, index: int) -> Sample:
        part, place = self._places[index]
        sample, known = part[place], self._classes.get(id(part))
        if known is None:
            return sample
        ids = np.unique(sample.stack)
        classes = {i: known[sample.class_of(i) - 1] for i in ids[ids > 0].tolist()}
        return replace(sample, classes=classes, annotated=frozenset(known))


def _named_apart(parts: Sequence[Dataset]) -> list[str]:
    names: list[str] = []
    taken: set[str] = set()
    for number, part in enumerate(parts, start=1):
        for name in part.names:
            own = name
            while own in taken:
                own = f"{own}@{number}"
            taken.add(own)
            names.append(own)
    return names
