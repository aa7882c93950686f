"""One process at a time works in a folder of results or of a run; who it is, stands beside the lock."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from napari_deepretina.errors import UserError
from napari_deepretina.files import refuse_inputs, remove, sweep_parts, write_text
from napari_deepretina.intake import parse_json, read_json, read_text

LOCK, OWNER = ".lock", ".owner"
"""Names of the files. The system frees the lock when its owner ends, however it ends; the other names it."""


def own_process() -> str:
    """What tells this process from all others, also from a later one that gets the same number."""
    return json.dumps(
        {"pid": os.getpid(), "started": psutil.Process().create_time(), "host": platform.node()}
    )


def is_at_work(told: str) -> bool:
    """Whether the process that `own_process` described still runs on this machine.

    Asking it sends it nothing. A file of an earlier version, with a number alone, proves nothing.
    """
    try:
        content = parse_json(told)
        pid, started, host = content["pid"], float(content["started"]), content["host"]
        return bool(host == platform.node() and abs(psutil.Process(pid).create_time() - started) < 1)
    except (ValueError, KeyError, TypeError, OverflowError, psutil.Error):
        return False


@contextmanager
def sole_use(folder: Path, of: Path | None = None) -> Iterator[None]:
    """Keep others out of a folder while the block runs; a dead owner's lock is taken over.

    Parameters
    ----------
    folder : holds the lock; it is made if need be.
    of : the folder that messages name, where it is another one.

    Raises
    ------
    UserError
        If another process, or another job of this one, works in it, or it cannot be written to.
    """
    named = of or folder
    refuse_inputs(folder / LOCK)
    lock: FileLock | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=0)
        lock.acquire()
    except Timeout:
        raise _taken(folder, named) from None
    except NotImplementedError:  # a file system without locks
        lock = None
    except OSError as error:
        raise UserError(
            f"{named} cannot be written to: {error.strerror or error}; choose another folder (--out)"
        ) from None
    try:
        sweep_parts(folder)
        write_text(folder / OWNER, own_process())
        yield
    finally:
        try:
            remove(folder / OWNER)
        finally:
            if lock is not None:
                lock.release()


def refuse_if_in_use(folder: Path) -> None:
    """UserError if another process works in a folder, which need not exist; nothing is locked."""
    if os.environ.get("LOCAL_RANK", "0") != "0":  # a helper of the process that asks in its own name
        return
    try:
        told = read_text(folder / OWNER)
    except UserError:
        return
    if is_at_work(told):
        raise _taken(folder, folder)


def _taken(folder: Path, named: Path) -> UserError:
    try:
        told = read_json(folder / OWNER)
        pid, host = int(told["pid"]), str(told["host"])
        own = (pid, host) == (os.getpid(), platform.node())
        who = "another job of this program" if own else f"process {pid} on {host}"
    except (ValueError, KeyError, TypeError, OverflowError):
        who = "another process"
    return UserError(f"{who} works in {named}: wait for it, stop it, or choose another folder (--out)")
