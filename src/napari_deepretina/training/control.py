"""How a run is told what to do while it goes: signals, and files in its folder."""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil

from napari_deepretina.files import remove, write_text
from napari_deepretina.lock import own_process

PAUSE, STOP, SAVE, PID = "pause", "stop", "save", "pid"
"""Names of the files: while *pause* is there the run waits; *stop* ends it well; *save* asks for a checkpoint
and a validation now; *pid* tells which process is at work."""


class Control:
    """Whether someone wants the run to end, wait or save: SIGINT, SIGTERM, or a file in its folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        begun = psutil.Process().create_time() - 1  # the system tells it to the second
        for name in (
            STOP,
            PAUSE,
            SAVE,
        ):  # what was asked while this process started counts; what is older does not
            with suppress(OSError):
                if (folder / name).stat().st_mtime < begun:
                    remove(folder / name)
        write_text(folder / PID, own_process())
        self._signalled = False
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                signal.signal(number, self._on_signal)
            except ValueError:  # not the main thread: the files still work
                break

    def _on_signal(self, *_: object) -> None:
        self._signalled = True

    @property
    def stop_asked(self) -> bool:
        """True once asked; stays so."""
        self._signalled = self._signalled or (self._folder / STOP).exists()
        return self._signalled

    @property
    def pause_asked(self) -> bool:
        """True while the file is there and nobody asks to stop."""
        return (self._folder / PAUSE).exists() and not self.stop_asked

    def wait(self) -> None:
        """Come back when the pause is over."""
        while self.pause_asked:
            time.sleep(0.2)

    def take_save(self) -> bool:
        """Whether a checkpoint was asked for; answers True once for each asking."""
        if not (self._folder / SAVE).exists():
            return False
        remove(self._folder / SAVE)
        return True

    def close(self) -> None:
        """The run is over, and nobody waits for anything any more."""
        for name in (STOP, PAUSE, SAVE, PID):
            remove(self._folder / name)
