"""The one door for everything that is written: whole or not at all, and never over an input."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from napari_deepretina.errors import UserError

Identity = tuple[int, int]
"""Device and inode: the same for every spelling of a path, through links, case and ``..``."""


class _Protected:
    """Inputs of the commands that are under way in this process, each counted as often as it is used.

    Attributes
    ----------
    files : may be neither written nor removed.
    trees : folders that are inputs as a whole, such as a Zarr: nothing in them may be written.
    above : folders that hold inputs: they may not be replaced or removed as a whole.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.files: Counter[Identity] = Counter()
        self.trees: Counter[Identity] = Counter()
        self.above: Counter[Identity] = Counter()


_INPUTS = _Protected()


@contextmanager
def protected(*paths: str | Path | None) -> Iterator[None]:
    """Keep inputs from being written or removed by anything in this module while the block runs.

    Parameters
    ----------
    paths : files, and folders that are one input each (a Zarr, a Kaggle folder). Files in a folder that holds
        many inputs are given one by one: see `files_below`. What does not exist, and None, is passed over.
    """
    files: set[Identity] = set()
    trees: set[Identity] = set()
    above: set[Identity] = set()
    seen: set[Path] = set()
    for path in (Path(os.path.expanduser(p)) for p in paths if p is not None):
        own = identities(path)
        (trees if _is_folder(path) else files).update(own)
        for spelling in {path.absolute().parent, _resolved(path).parent}:
            for folder in (spelling, *spelling.parents):
                if own and folder not in seen:
                    seen.add(folder)
                    above.update(identities(folder))
    added = ((_INPUTS.files, files), (_INPUTS.trees, trees), (_INPUTS.above, above))
    with _INPUTS.lock:
        for counter, new in added:
            counter.update(new)
    try:
        yield
    finally:
        with _INPUTS.lock:
            for counter, new in added:
                counter.subtract(new)


def files_below(folder: Path, *, apart_from: Path | None = None) -> Iterator[Path]:
    """All files below a folder, hidden ones too; links to folders are not followed.

    Parameters
    ----------
    apart_from : a folder of results below it, which is left out.
    """
    left_out = identities(apart_from) if apart_from is not None else set()
    for root, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if not (left_out and identities(Path(root, f)) & left_out)]
        yield from (Path(root, name) for name in names)


def identities(path: Path) -> set[Identity]:
    """Of a path itself and of what it links to; none if there is nothing."""
    found = set()
    for look in (os.stat, os.lstat):
        try:
            told = look(path)
        except (OSError, ValueError):
            continue
        found.add((told.st_dev, told.st_ino))
    return found


def exists(path: Path) -> bool:
    """Whether anything has this name, be it a link to nowhere."""
    return bool(identities(path))


def same_folder(one: Path, other: Path) -> bool:
    """Whether two paths are the same existing folder, however they are spelt."""
    return bool(identities(one) & identities(other))


def refuse_inputs(target: Path) -> None:
    """UserError if writing or removing a path would change an input of a command that is under way."""
    own = identities(target)
    with _INPUTS.lock:
        if any(_INPUTS.files[i] > 0 or _INPUTS.trees[i] > 0 for i in own):
            raise UserError(f"{target} is an input and is never written over; choose another place or name")
        if any(_INPUTS.above[i] > 0 for i in own):
            raise UserError(f"{target} holds inputs and is never replaced; choose another place or name")
        if any(_INPUTS.trees.values()):
            for folder in _resolved(target).parents:
                if any(_INPUTS.trees[i] > 0 for i in identities(folder)):
                    raise UserError(f"{target} lies in {folder}, which is an input; choose another place")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a path beside the destination to write to; rename it when the block ends well.

    The folder is made if need be. On any failure the part is removed and the old file, if
    there is one, stays as it was. What is written may be a folder.

    Raises
    ------
    UserError
        If the destination is an input, or the system refuses: no permission, disk full, and the like.
    """
    refuse_inputs(path)
    beside = _part_of(path)
    try:
        with _refusals_told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield beside
            refuse_inputs(path)
            if beside.is_dir() and path.is_dir() and not path.is_symlink():
                _replace_folder(beside, path)
            else:
                os.replace(beside, path)
    finally:
        # Not missing_ok alone: where the folder is not one, even unlink complains.
        if beside.is_dir():
            shutil.rmtree(beside, ignore_errors=True)
        elif beside.parent.is_dir():
            beside.unlink(missing_ok=True)


def _replace_folder(beside: Path, path: Path) -> None:
    """Put a folder into the place of another one, which comes back if that fails."""
    aside = beside.with_name(f"{beside.name}.old")
    os.replace(path, aside)
    try:
        os.replace(beside, path)
    except OSError:
        os.rename(aside, path)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole; see `written_whole` for errors."""
    with written_whole(path) as part:
        part.write_text(text, "utf-8")


def open_csv(part: Path) -> IO[str]:
    """A part open for `csv` to write; names that are no UTF-8 keep their bytes."""
    return part.open("w", newline="", encoding="utf-8", errors="surrogateescape")


FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""


def harmless(cell: Any) -> Any:
    """A cell of a table for spreadsheets: text that would run as a formula gets an apostrophe before it."""
    if not isinstance(cell, str) or not cell.startswith(FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def appended(path: Path) -> IO[str]:
    """A UTF-8 text file open for lines to be added; its folder is made if need be.

    Raises
    ------
    UserError
        If it is an input, or cannot be opened.
    """
    refuse_inputs(path)
    with _refusals_told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a", encoding="utf-8")


def append_text(path: Path, text: str) -> None:
    """Add lines to the end of a UTF-8 text file, which is made if need be.

    Raises
    ------
    UserError
        If it is an input, or cannot be written; a part of the text may be there then.
    """
    file = appended(path)
    with _refusals_told(path), file:
        file.write(text)


def append_bytes(path: Path, content: bytes) -> None:
    """Add to the end of a file, and wait until the disk has it.

    Raises
    ------
    UserError
        If it is an input, or cannot be written.
    """
    refuse_inputs(path)
    with _refusals_told(path), path.open("ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _refusals_told(path: Path, what: str = "written") -> Iterator[None]:
    """What the system refuses becomes a UserError."""
    try:
        yield
    except OSError as error:
        told = error.strerror or f"the disk did not take all of it ({error})"
        raise UserError(f"{path} cannot be {what}: {told}") from error


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it, if it is there.

    Raises
    ------
    UserError
        If it is an input, or holds one, or the system refuses.
    """
    refuse_inputs(path)
    with _refusals_told(path, "removed"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.parent.is_dir():
            path.unlink(missing_ok=True)


def moved(source: Path, target: Path) -> None:
    """Give a finished part its name, in the place of what had it.

    Raises
    ------
    UserError
        If the place is an input's, or the system refuses.
    """
    refuse_inputs(target)
    with _refusals_told(target):
        os.replace(source, target)


_LONGEST_NAME = 255


def _part_of(path: Path) -> Path:
    """A hidden name beside a path, cut where the file system would find it too long."""
    before = f".{os.getpid()}.part."
    kept = path.name
    while len((before + kept).encode("utf-8", "surrogateescape")) > _LONGEST_NAME:
        kept = kept[1:]  # the end tells the format
    return path.with_name(before + kept)


def sweep_parts(folder: Path) -> None:
    """Remove parts that processes left in a folder of results when they were killed while they wrote."""
    import psutil

    for part in folder.glob(".*.part.*"):
        number = part.name.split(".")[1]
        if number.isdecimal() and not psutil.pid_exists(int(number)):
            remove(part)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # a loop of links
        return path.absolute()


def expanded(path: str | Path) -> Path:
    """A path that a person gave, with ~ and ~user filled in; where there is no such person, as it is.

    Raises
    ------
    UserError
        If no file system could hold it.
    """
    found = Path(os.path.expanduser(path))
    try:
        os.lstat(found)
    except ValueError:
        raise UserError(f"{str(path)[:80]!r} cannot be a path: it holds a zero") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"{str(path)[:80]}… cannot be a path: it is too long") from None
    return found


def user_data_folder() -> Path:
    """Where this program keeps what belongs to a person; it need not exist."""
    import platformdirs

    return Path(platformdirs.user_data_dir("napari-deepretina", appauthor=False))


def short_path(path: str | Path) -> str:
    """A path as people write it: ~ for their home."""
    try:
        return str(Path("~") / Path(path).relative_to(Path.home()))
    except ValueError:
        return str(path)
