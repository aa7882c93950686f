"""Where training runs live, and which of them was the last: weights by the name of a run."""

from __future__ import annotations

from pathlib import Path

from napari_deepretina.errors import UserError
from napari_deepretina.files import user_data_folder, write_text
from napari_deepretina.intake import read_text

BEST, LATEST = "weights.safetensors", "last.safetensors"
"""Files of a run: the best weights on validation, and those of the last checkpoint."""
LAST = "last"
"""Stands for the last run wherever weights are asked for."""
_REMEMBERED = 100


def runs_folder() -> Path:
    """Where runs started from a window live; it need not exist."""
    return user_data_folder() / "runs"


def remember(folder: Path) -> None:
    """Note a run that lies elsewhere, so that it is found by name; where that can't be kept, it is not."""
    folder = folder.absolute()
    if folder.parent == runs_folder():
        return
    lines = [str(folder), *(line for line in _noted() if line != str(folder))]
    try:
        write_text(_notes(), "\n".join(lines[:_REMEMBERED]) + "\n")
    except (UserError, UnicodeError):
        return


def known_runs() -> list[Path]:
    """Folders of runs that exist, the one that worked last first."""
    found = {p.parent for p in runs_folder().glob("*/events.jsonl")}
    found |= {Path(line) for line in _noted() if (Path(line) / "events.jsonl").is_file()}
    return sorted(found, key=lambda f: (f / "events.jsonl").stat().st_mtime, reverse=True)


def weights_in(folder: Path) -> Path | None:
    """The best weights of a run, else the latest ones; None if there are none yet."""
    return next((folder / name for name in (BEST, LATEST) if (folder / name).is_file()), None)


def find_run(name: str) -> Path | None:
    """The folder of a run that has weights, by its name, or the last one of all for ``last``."""
    for folder in known_runs():
        if name in (LAST, folder.name) and weights_in(folder) is not None:
            return folder
    return None


def _notes() -> Path:
    return runs_folder() / "known.txt"


def _noted() -> list[str]:
    try:
        return [line for line in read_text(_notes()).splitlines() if line]
    except UserError:
        return []
