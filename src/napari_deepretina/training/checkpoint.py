"""Everything needed to go on exactly where a run stood."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from napari_deepretina.errors import UserError
from napari_deepretina.files import written_whole
from napari_deepretina.intake import typed

PARTS = {"network", "average", "updates", "optimizer", "step", "best"}
"""What a checkpoint holds."""


class _Plain(BaseModel):
    """What a checkpoint holds, but for what its tensors are: the network and the optimiser look at these."""

    model_config = ConfigDict(strict=True)
    network: dict[str, Any]
    average: dict[str, Any]
    optimizer: dict[str, Any]
    updates: int = Field(ge=0, lt=2**53)
    step: int = Field(ge=0, lt=2**53)
    best: float
    best_step: int = Field(default=0, ge=0, lt=2**53)


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
    typed(_Plain, {k: v for k, v in state.items() if isinstance(k, str)}, str(path))
    return state
