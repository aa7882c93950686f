"""Arrays on disk, read part by part."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.errors import UserError


class Guarded:
    """An array that is read part by part, whatever goes wrong then being a UserError that names the file.

    Parameters
    ----------
    chunks : given, parts of this shape are decoded as a whole, and the last ones are kept: tiles that overlap
        do not decode them again.
    """

    KEPT_BYTES = 128e6

    def __init__(self, array: Any, name: str, chunks: tuple[int, ...] | None = None) -> None:
        self._array, self._name, self._chunks = array, name, chunks
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim
        self._kept: OrderedDict[tuple[int, ...], NDArray[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, index: Any) -> NDArray[Any]:
        try:
            place = self._chunk_of(index)
            if place is None:
                return np.asarray(self._array[index])
            starts = [p * c for p, c in zip(place, self._chunks or (), strict=True)]
            within = (slice(i.start - s, i.stop - s, i.step) for i, s in zip(index, starts, strict=True))
            return self._chunk(place)[tuple(within)]
        except Exception as error:
            # Decoders raise all sorts of types on broken files; the reason is passed on.
            raise UserError(f"{self._name} cannot be read: {str(error) or type(error).__name__}") from error

    def _chunk_of(self, index: Any) -> tuple[int, ...] | None:
        """The chunk that a part lies in; None if it is in several, or is asked for in another way."""
        if self._chunks is None or not isinstance(index, tuple) or len(index) != self.ndim:
            return None
        plain = all(
            isinstance(i, slice)
            and i.start is not None
            and 0 <= i.start < (i.stop or 0)
            and (i.step or 1) > 0
            for i in index
        )
        if not plain:
            return None
        first = tuple(i.start // c for i, c in zip(index, self._chunks, strict=True))
        last = tuple((i.stop - 1) // c for i, c in zip(index, self._chunks, strict=True))
        return first if first == last else None

    def _chunk(self, place: tuple[int, ...]) -> NDArray[Any]:
        with self._lock:
            known = self._kept.pop(place, None)
        if known is None:
            chunks = self._chunks or ()
            known = np.asarray(
                self._array[tuple(slice(p * c, (p + 1) * c) for p, c in zip(place, chunks, strict=True))]
            )
            known.flags.writeable = False
        with self._lock:
            self._kept[place] = known
            while sum(c.nbytes for c in self._kept.values()) > self.KEPT_BYTES and len(self._kept) > 1:
                self._kept.popitem(last=False)
        return known
