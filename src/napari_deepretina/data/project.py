"""Training samples collected by a person: image/label pairs in a folder, with a manifest."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from napari_deepretina.data.files import encode_tiff
from napari_deepretina.data.sample import checked_sample
from napari_deepretina.errors import UserError
from napari_deepretina.files import expanded, moved, remove, write_text, written_whole
from napari_deepretina.intake import read_json, typed

MANIFEST = "manifest.json"
CORRECTIONS = "corrections.json"
"""A folder with this holds images of which some nuclei are corrected, and others nowhere labelled."""


def is_partly_labelled(path: str | Path) -> bool:
    """Whether a data set is what teaching remembers."""
    return (expanded(path) / CORRECTIONS).is_file()


class _Told(BaseModel):
    """What the manifest tells of a sample; more may stand in it."""

    model_config = ConfigDict(extra="allow")
    source: str = Field(default="", alias="from")
    nuclei: int = 0
    shape: list[int] = []
    time: float = 0


class _Manifest(BaseModel):
    samples: dict[str, _Told]


class Project:
    """A folder of ``images/NAME.tif`` and ``labels/NAME.tif`` that training reads as it is.

    Everything is written beside and renamed, so a crash leaves whole samples only; a sample is in the
    manifest when both of its files are there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def samples(self) -> dict[str, dict[str, Any]]:
        """What the manifest tells of each sample, by name."""
        path = self.folder / MANIFEST
        if not path.exists():
            return {}
        manifest = typed(_Manifest, read_json(path), str(path))
        return {name: told.model_dump(by_alias=True) for name, told in manifest.samples.items()}

    def add(
        self,
        name: str,
        image: NDArray[Any],
        labels: NDArray[Any],
        *,
        only: NDArray[np.bool_] | None = None,
        margin: int = 16,
        replace: str | None = None,
    ) -> str:
        """Keep one sample; the name that it has.

        Parameters
        ----------
        image : (H, W) or (H, W, 3).
        labels : (H, W) integer.
        only : (H, W) bool; given, the smallest crop around these pixels and a margin is kept.
        margin : pixels around them.
        replace : name of an earlier state of this sample, which goes when the new one is there; by default
            the sample is a new one.

        Raises
        ------
        UserError
            If image and labels do not fit, there is nothing to learn from, or the disk refuses.
        """
        if only is not None:
            window = _window(only, margin)
            image, labels = image[window], labels[window]
        sample = checked_sample(name, image, labels)
        if not sample.labels.any():
            raise UserError(f"the labels of {name!r} are empty: there is nothing to learn from")
        known = self.samples()
        told: dict[str, Any] = {
            "from": name,
            "nuclei": len(np.unique(sample.labels)) - 1,
            "shape": list(sample.labels.shape),
            "time": round(time.time()),
        }
        same_frame = replace in known and known[replace].get("shape") == told["shape"]
        fresh = replace if replace and same_frame else self._unused(name, known)
        for kind, array in (("images", sample.image), ("labels", sample.labels)):
            with written_whole(self.folder / kind / f"{fresh}.tif") as part:
                part.write_bytes(encode_tiff(array, photometric="rgb" if array.ndim == 3 else "minisblack"))
        rest = {k: v for k, v in known.items() if k != replace}
        write_text(self.folder / MANIFEST, json.dumps({"samples": {**rest, fresh: told}}, indent=2))
        if replace and fresh != replace:
            for kind in ("labels", "images"):  # a pair without labels is none
                remove(self.folder / kind / f"{replace}.tif")
        return fresh

    def put_aside(self, name: str) -> Path:
        """Take a sample out; its files go to the folder ``removed``, where nothing is trained on.

        Raises
        ------
        UserError
            If there is no such sample, or the disk refuses.
        """
        known = self.samples()
        if name not in known:
            raise UserError(f"there is no sample {name!r} in the project")
        aside = self.folder / "removed"
        rest = {k: v for k, v in known.items() if k != name}
        try:
            aside.mkdir(exist_ok=True)
            write_text(self.folder / MANIFEST, json.dumps({"samples": rest}, indent=2))
            for kind in ("labels", "images"):  # a pair without labels is none
                source, number = self.folder / kind / f"{name}.tif", 1
                target = aside / f"{name}.{kind}.tif"
                while target.exists():
                    number += 1
                    target = aside / f"{name}_{number}.{kind}.tif"
                if source.exists():
                    moved(source, target)
        except OSError as error:
            raise UserError(f"sample {name!r} could not be put aside: {error.strerror or error}") from None
        return aside

    def _unused(self, name: str, known: dict[str, Any]) -> str:
        base = re.sub(r"[^\w\-]+", "_", name).strip("_") or "sample"
        fresh, number = base, 1
        while fresh in known or (self.folder / "images" / f"{fresh}.tif").exists():
            number += 1
            fresh = f"{base}_{number}"
        return fresh


def _window(only: NDArray[np.bool_], margin: int) -> tuple[slice, slice]:
    if not only.any():
        raise UserError("nothing was edited: keep the whole frame instead")
    rows, columns = np.flatnonzero(only.any(axis=1)), np.flatnonzero(only.any(axis=0))
    return (
        slice(max(0, rows[0] - margin), rows[-1] + 1 + margin),
        slice(max(0, columns[0] - margin), columns[-1] + 1 + margin),
    )
