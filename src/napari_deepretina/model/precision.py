"""In which precision a network detects: a choice of the user, reported honestly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_deepretina.errors import UserError

if TYPE_CHECKING:
    import torch

CHOICES = ("auto", "float32", "bfloat16", "float16")


def resolve_precision(choice: str, device: torch.device, *, matterport: bool = False) -> str:
    """float32, bfloat16 or float16 for a choice.

    ``auto`` takes bfloat16, which has the range of float32, where the device computes it in hardware: on
    CUDA and on CPUs with AVX-512 BF16 or AMX. Elsewhere it takes float32.

    Parameters
    ----------
    matterport : whether the network is one of Matterport's, which are for parity and know float32 only.

    Raises
    ------
    UserError
        If the choice is unknown, or the device or the network cannot do it.
    """
    if choice not in CHOICES:
        raise UserError(f"unknown precision {choice!r}; choose {', '.join(CHOICES[:-1])} or {CHOICES[-1]}")
    if matterport:
        if choice not in ("auto", "float32"):
            raise UserError(f"Matterport's networks compute in float32, not in {choice}; choose auto")
        return "float32"
    if choice == "float16" and device.type == "cpu":
        raise UserError("float16 is slow on a CPU; choose auto, float32 or bfloat16")
    if choice != "auto":
        return choice
    return "bfloat16" if _has_bfloat16(device) else "float32"


def fast_cpu_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX-512 BF16 or AMX)."""
    import torch

    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, c, lambda: False)()) for c in checks)


def _has_bfloat16(device: torch.device) -> bool:
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and fast_cpu_bfloat16()
