"""What a run tells while it goes: JSON lines for programs, TensorBoard files for people."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.files import appended

Tell = Callable[[str, int, dict[str, Any]], None]
"""What shows events to a person: their name, step and values."""


class EventLog:
    """Appends to ``events.jsonl`` and TensorBoard files in the run's folder.

    Every line is an object with ``event``, ``time`` (seconds since the epoch) and ``step``.
    Numbers in it also become TensorBoard scalars named ``event/key``. A line is written whole
    or not at all, so a reader may follow the file while it grows. One that is not active, as on all
    processes of a distributed run but the first, writes nothing.
    """

    def __init__(self, folder: Path, *, active: bool = True, tell: Tell | None = None) -> None:
        self._active = active
        self._tell = tell or _print
        if not active:
            return
        from torch.utils.tensorboard import SummaryWriter

        self._lines = appended(folder / "events.jsonl")
        self._board = SummaryWriter(folder)

    def write(self, event: str, step: int, **values: Any) -> None:
        """Log one event at a global step."""
        if not self._active:
            return
        line = json.dumps({"event": event, "time": round(time.time(), 3), "step": step, **values})
        self._lines.write(line + "\n")
        self._lines.flush()
        for key, value in values.items():
            if isinstance(value, int | float):
                self._board.add_scalar(f"{event}/{key}", value, step)
        self._tell(event, step, {k: v for k, v in values.items() if isinstance(v, int | float) or v})

    def picture(self, name: str, image: NDArray[np.uint8], step: int) -> None:
        """Show a (H, W, 3) picture in TensorBoard."""
        if self._active:
            self._board.add_image(name, image, step, dataformats="HWC")

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self._active:
            self._lines.close()
            self._board.close()


def _print(event: str, step: int, values: dict[str, Any]) -> None:
    told = {k: f"{v:.4g}" if isinstance(v, float) else str(v) for k, v in values.items()}
    print(f"{event} {step} " + " ".join(f"{k} {v}" for k, v in told.items()), flush=True)
