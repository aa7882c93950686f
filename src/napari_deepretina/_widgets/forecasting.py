"""What a run would take, asked of a process of its own; and what a run that ended was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from napari.qt.threading import create_worker
from qtpy.QtCore import QObject, Signal

from napari_deepretina.errors import UserError
from napari_deepretina.files import exists
from napari_deepretina.training.asked import Asked, read_record, weighted
from napari_deepretina.training.watch import forecast_run


class Forecaster(QObject):
    """Asks for a forecast without holding up the window: ``told`` gives it, ``failed`` the reason why not."""

    told = Signal(str)
    failed = Signal(str)

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._worker: Any = None

    def ask(self, arguments: Sequence[str]) -> None:
        """Ask about a run with these arguments of the command; UserError if one is asked about already."""
        if self._worker is not None:
            raise UserError("a forecast is under way: wait for it")
        self._worker = create_worker(_asked, list(arguments))
        self._worker.returned.connect(self._answer)
        self._worker.start()

    def _answer(self, answer: tuple[str, str]) -> None:
        self._worker = None
        told, problem = answer
        if problem:
            self.failed.emit(problem)
        else:
            self.told.emit(told)


def _asked(arguments: list[str]) -> tuple[str, str]:
    """What would be done, and why it could not be."""
    try:
        return forecast_run(arguments), ""
    except UserError as error:
        return "", str(error)


def existing(sets: list[str]) -> list[str]:
    """The same data sets, each with its weight; UserError if there is none, or one does not exist."""
    if not sets:
        raise UserError("add annotated images first: two layers, a folder, a zip or a COCO file")
    for path, _ in map(weighted, sets):
        if not exists(Path(path)):
            raise UserError(f"{path} does not exist: remove it from the list, or add it from where it is now")
    return sets


def recorded(folder: Path) -> Asked | None:
    """What a run was asked for, where its folder tells."""
    try:
        return read_record(folder)[0]
    except UserError:
        return None


def resume_arguments(folder: Path, changes: str, device: str) -> list[str]:
    """The command's arguments that go on with a run, with those changes that it does not know."""
    asked = recorded(folder)
    known = set(asked.overrides if asked else ())
    fresh = [word for text in changes.split() if text not in known for word in ("--set", text)]
    return ["--resume", str(folder), "--device", device, *fresh]
