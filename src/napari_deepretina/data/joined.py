"""Several data sets as one."""

from __future__ import annotations

from collections.abc import Sequence

from napari_deepretina.data.sample import Dataset, Sample
from napari_deepretina.errors import UserError


class JoinedDataset:
    """One data set after the other; names must be unique over all of them."""

    def __init__(self, parts: Sequence[Dataset]) -> None:
        self._places = [(part, i) for part in parts for i in range(len(part))]
        self.names: Sequence[str] = [part.names[i] for part, i in self._places]
        if len(set(self.names)) < len(self.names):
            twice = next(n for n in self.names if list(self.names).count(n) > 1)
            raise UserError(f"two of the data sets hold an image named {twice!r}; rename one")

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Sample:
        part, place = self._places[index]
        return part[place]
