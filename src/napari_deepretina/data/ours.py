"""The mark that results carry, so that no later run takes them for images."""

from __future__ import annotations

from pathlib import Path

from napari_deepretina.errors import UserError
from napari_deepretina.files import exists
from napari_deepretina.intake import read_json

MARK = "napari-deepretina"
"""Software that a TIFF or PNG file names as its maker."""
RESULT = "_nuclei"
"""Results beside an image are called after it, with this."""


def made_here(path: Path) -> bool:
    """Whether a file or a Zarr is a result of ours: by its mark, for a name alone proves nothing.

    Only what is called like a result is opened.
    """
    if not path.name.lower().endswith((f"{RESULT}.tif", f"{RESULT}.png", f"{RESULT}.zarr", f"{RESULT}.zip")):
        return False
    try:
        return _KINDS[path.suffix.lower()](path)
    except Exception:
        # Whatever is wrong with the file, the one who reads it will tell.
        return False


PROGRAM = "program"
"""Key under which a JSON file of figures names us."""


def refuse_others(target: Path) -> None:
    """UserError if a PNG or JSON file is there that this program did not write: it is never replaced."""
    if not exists(target):
        return
    try:
        ours = (_png if target.suffix.lower() == ".png" else _json)(target)
    except Exception:
        # Whatever is wrong with the file, it is not one of ours.
        ours = False
    if not ours:
        raise UserError(
            f"{target} is there already and was not written by this program, so it is not replaced: choose "
            "another name or place"
        )


def _json(path: Path) -> bool:
    return bool(read_json(path)[PROGRAM] == MARK)


def _tiff(path: Path) -> bool:
    import tifffile

    with tifffile.TiffFile(path) as file:
        software = str(file.pages.first.software)
        return software.startswith(MARK) or f'Creator="{MARK}' in str(file.ome_metadata or "")


def _png(path: Path) -> bool:
    from PIL import Image

    with Image.open(path) as picture:
        return str(picture.info.get("Software", "")).startswith(MARK)


def _zarr(path: Path) -> bool:
    told = read_json(path / "zarr.json")["attributes"]["ome"]
    return "image-label" in told


def _rois(path: Path) -> bool:
    import zipfile

    with zipfile.ZipFile(path) as archive:
        return all(name.endswith(".roi") for name in archive.namelist())


_KINDS = {".tif": _tiff, ".png": _png, ".zarr": _zarr, ".zip": _rois}
