"""Files of microscopes' own programs (CZI, ND2, LIF), read through bioio where it is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from napari_deepretina.errors import UserError

EXTRA = "napari-deepretina[microscopes]"


def open_microscope_file(
    path: Path, scene: int = 0
) -> tuple[Any, str, tuple[float, float] | None, int, tuple[str, ...]]:
    """One scene of a file, not read yet.

    Parameters
    ----------
    scene : its number, counted from 0.

    Returns
    -------
    pixels : array of dask.
    axes : a letter for each axis: T, C, Z, Y, X and S for the samples of a colour.
    pixel_size : height and width of a pixel in µm, if the file tells it.
    scenes : how many the file holds.
    names : of the channels, if the file tells them.

    Raises
    ------
    UserError
        If bioio or its reader for this format is not installed, or the file cannot be read.
    """
    kind = path.suffix.lower().lstrip(".")
    try:
        from bioio import BioImage
        from bioio_base.exceptions import UnsupportedFileFormatError
    except ImportError:
        raise UserError(f"{path} is a {kind.upper()} file: pip install '{EXTRA}' reads it") from None
    try:
        image = BioImage(path)
        scenes = list(image.scenes)
        if scene >= len(scenes):
            raise UserError(f"{path} has {len(scenes)} scenes, counted from 0: there is no scene {scene}")
        image.set_scene(scene)
        size = image.physical_pixel_sizes
        pixel_size = (float(size.Y), float(size.X)) if size.Y and size.X else None
        names = tuple(str(name) for name in image.channel_names or ())
        return image.dask_data, str(image.dims.order), pixel_size, len(scenes), names
    except UserError:
        raise
    except UnsupportedFileFormatError:
        raise UserError(f"{path}: bioio has no reader for it here: pip install '{EXTRA}'") from None
    except Exception as error:
        # Readers raise all sorts of types on broken files; the reason is passed on.
        reason = str(error) or type(error).__name__
        raise UserError(f"{path} cannot be read as an image: {reason}") from error
