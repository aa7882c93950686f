"""Which device runs the network, chosen by the user and reported honestly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_deepretina.errors import UserError

if TYPE_CHECKING:
    import torch

CHOICES = ("auto", "cpu", "cuda", "mps")


def resolve_device(choice: str = "auto") -> torch.device:
    """The device for a choice: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    ``auto`` takes CUDA if there is any, else Apple's MPS, else the CPU.

    Raises
    ------
    UserError
        If the choice is unknown or this machine does not have it: never another one in silence.
    """
    import torch

    if choice == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, number = choice.partition(":")
    if kind not in CHOICES[1:] or (number and not number.isdecimal()):
        raise UserError(f"unknown device {choice!r}; choose auto, cpu, cuda, cuda:N or mps")
    if kind == "cuda" and (not torch.cuda.is_available() or int(number or 0) >= torch.cuda.device_count()):
        raise UserError(
            f"device {choice!r} is not available: torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices; choose auto or cpu"
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError("device 'mps' is not available on this machine; choose auto or cpu")
    return torch.device(choice)


def describe_device(device: torch.device) -> str:
    """What a person calls it: ``NVIDIA H100 (cuda:0)``, ``CPU, 8 threads``."""
    import torch

    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} ({device})"
    if device.type == "mps":
        return "Apple GPU (mps)"
    return f"CPU, {torch.get_num_threads()} threads"
