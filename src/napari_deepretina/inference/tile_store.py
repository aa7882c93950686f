"""Tiles that are done, on disk: an interrupted run goes on where it stopped."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_deepretina.files import remove, written_whole
from napari_deepretina.instances import RawInstances
from napari_deepretina.intake import read_arrays, read_bytes

_ARRAYS = ("boxes", "scores", "masks", "classes", "views", "tiles")
FORGOTTEN_DAYS = 14


@dataclass(frozen=True)
class TileStore:
    """One file a tile in a folder of its own for each image, network and choice of settings.

    Attributes
    ----------
    root : holds such folders.
    key : tells this one: equal only for runs whose tiles would be equal.
    """

    root: Path
    key: str

    @property
    def folder(self) -> Path:
        """Where the tiles lie."""
        return self.root / self.key

    def read(self) -> dict[int, RawInstances]:
        """All tiles that are whole, by number."""
        found = {}
        for path in sorted(self.folder.glob("*.npz")):
            try:
                packed = read_bytes(path)
                content = read_arrays(io.BytesIO(packed), len(packed), path.name)
                arrays: dict[str, Any] = {name: content[name] for name in _ARRAYS}
                height, width, views, fading = content["about"].tolist()
                thinned = float(content["thinned"])
                raw = RawInstances(
                    **arrays, shape=(height, width), view_count=views, thinned=thinned, fading=bool(fading)
                )
                if raw.is_sound:
                    found[int(path.stem)] = raw
            except (ValueError, KeyError, TypeError):
                continue  # such a tile is looked at again
        return found

    def write(self, number: int, raw: RawInstances) -> None:
        """Keep a tile; UserError if the disk refuses."""
        about = np.array([*raw.shape, raw.view_count, raw.fading], np.int64)
        with written_whole(self.folder / f"{number:06}.npz") as part, part.open("wb") as file:
            arrays = {name: getattr(raw, name) for name in _ARRAYS}
            np.savez_compressed(file, about=about, thinned=np.float64(raw.thinned), **arrays)

    def discard(self) -> None:
        """Forget the run, and those that nobody went on with for a while."""
        remove(self.folder)
        oldest = time.time() - FORGOTTEN_DAYS * 86400
        for folder in self.root.glob("*"):
            if folder.stat().st_mtime < oldest:
                remove(folder)
