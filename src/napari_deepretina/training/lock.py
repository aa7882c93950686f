"""One process at a time works in a run's folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from napari_deepretina.errors import UserError
from napari_deepretina.training.control import PID, is_at_work

NAME = ".lock"


@contextmanager
def sole_use(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder; the system gives it free when this one ends, however it ends.

    Raises
    ------
    UserError
        If another process works in it, or the folder cannot be written to.
    """
    lock: FileLock | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / NAME, timeout=0)
        lock.acquire()
    except Timeout:
        raise _taken(folder) from None
    except NotImplementedError:  # a file system without locks
        lock = None
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written to: {error.strerror or error}; choose another folder (--out)"
        ) from None
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def refuse_if_in_use(folder: Path) -> None:
    """UserError if another run works in a folder; it need not exist."""
    if os.environ.get("LOCAL_RANK", "0") != "0":  # a helper of the process that asks in its own name
        return
    try:
        if is_at_work((folder / PID).read_text("utf-8")):
            raise _taken(folder)
    except (OSError, ValueError):
        return


def _taken(folder: Path) -> UserError:
    try:
        told = json.loads((folder / PID).read_text("utf-8"))
        who = f"process {int(told['pid'])} on {told['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        who = "another process"
    return UserError(f"{who} works in {folder}: wait for it, stop it, or choose another folder (--out)")
