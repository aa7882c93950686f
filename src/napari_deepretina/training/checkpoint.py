"""Everything needed to go on exactly where a run stood."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch

from napari_deepretina.errors import UserError
from napari_deepretina.files import written_whole

PARTS = {"network", "average", "updates", "optimizer", "step", "best"}
"""What a checkpoint holds."""


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write tensors and plain values; the old file stays until the new one is complete."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with written_whole(path) as part, part.open("wb") as file:
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without unpickling anything but tensors and plain values."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"nothing to resume: {path} does not exist") from None
    except Exception as error:
        # torch raises several types for a damaged file
        raise UserError(f"{path} is damaged or no checkpoint, and cannot be resumed") from error
    if not isinstance(state, dict) or (missing := PARTS - state.keys()):
        lacks = f": it lacks {', '.join(sorted(missing))}" if isinstance(state, dict) else ""
        raise UserError(f"{path} is no checkpoint of this program{lacks}")
    return state
