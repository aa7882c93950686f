"""Several data sets as one."""

from __future__ import annotations

from collections.abc import Sequence

from napari_deepretina.data.sample import Dataset, Sample
from napari_deepretina.errors import UserError


class JoinedDataset:
    """One data set after the other; a name that an earlier one has gets the number of its set.

    Attributes
    ----------
    class_names : of classes 1, 2, …; the same for all parts.
    weights : copies of each image in a round of training, from the weights of the parts.
    title : what people call it.
    """

    def __init__(
        self, parts: Sequence[Dataset], weights: Sequence[int] | None = None, title: str = ""
    ) -> None:
        self.title = title
        weights = weights or [1] * len(parts)
        self.weights = [w for part, w in zip(parts, weights, strict=True) for _ in range(len(part))]
        names = [tuple(getattr(part, "class_names", ("nucleus",))) for part in parts]
        if len(set(names)) > 1:
            raise UserError(
                f"the data sets tell different classes apart: {' and '.join(map(str, set(names)))}"
            )
        self.class_names = names[0] if names else ("nucleus",)
        self._places = [(part, i) for part in parts for i in range(len(part))]
        self.names: Sequence[str] = _named_apart(parts)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Sample:
        part, place = self._places[index]
        return part[place]


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
