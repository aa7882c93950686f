"""What a run tells while it goes: JSON lines for programs, TensorBoard files for people."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any


class EventLog:
    """Appends to ``events.jsonl`` and TensorBoard files in the run's folder.

    Every line is an object with ``event``, ``time`` (seconds since the epoch) and ``step``.
    Numbers in it also become TensorBoard scalars named ``event/key``. A line is written whole
    or not at all, so a reader may follow the file while it grows.
    """

    def __init__(self, folder: Path, *, quiet: bool = False) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._lines = (folder / "events.jsonl").open("a", encoding="utf-8")
        self._board = SummaryWriter(folder)
        self._quiet = quiet

    def write(self, event: str, step: int, **values: Any) -> None:
        """Log one event at a global step."""
        line = json.dumps({"event": event, "time": round(time.time(), 3), "step": step, **values})
        self._lines.write(line + "\n")
        self._lines.flush()
        for key, value in values.items():
            if isinstance(value, int | float):
                self._board.add_scalar(f"{event}/{key}", value, step)
        if not self._quiet:
            numbers = {k: _short(v) for k, v in values.items() if isinstance(v, int | float | str)}
            print(f"{event} {step} " + " ".join(f"{k} {v}" for k, v in numbers.items()), flush=True)

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._board.close()


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
