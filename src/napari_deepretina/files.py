"""Files are written whole or not at all; paths as people write them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from napari_deepretina.errors import UserError


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a path beside the destination to write to; rename it when the block ends well.

    The folder is made if need be. On any failure the part is removed and the old file, if
    there is one, stays as it was. What is written may be a folder.

    Raises
    ------
    UserError
        If the system refuses: no permission, disk full, and the like.
    """
    beside = path.with_name(f".{os.getpid()}.part.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        if beside.is_dir() and path.is_dir():
            shutil.rmtree(path)
        os.replace(beside, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        # Not missing_ok alone: where the folder is not one, even unlink complains.
        if beside.is_dir():
            shutil.rmtree(beside, ignore_errors=True)
        elif beside.parent.is_dir():
            beside.unlink(missing_ok=True)


def short_path(path: str | Path) -> str:
    """A path as people write it: ~ for their home."""
    try:
        return str(Path("~") / Path(path).relative_to(Path.home()))
    except ValueError:
        return str(path)
