"""The processors that a run asks for."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from lightning.fabric import Fabric

from napari_deepretina.errors import UserError, out_of_memory
from napari_deepretina.inference.device import resolve_device
from napari_deepretina.model.precision import fast_cpu_bfloat16
from napari_deepretina.training.recipe import Recipe


@dataclass(frozen=True)
class Machine:
    """Kind and number of devices; under torchrun those that it started.

    Attributes
    ----------
    accelerator : as Fabric names them: auto, cpu, cuda, mps.
    devices : how many, or the numbers of those to use.
    """

    accelerator: str = "auto"
    devices: int | list[int] = 1

    @classmethod
    def of(cls, choice: str, devices: int = 1) -> Self:
        """From what a person chooses: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``, and how many.

        Raises
        ------
        UserError
            If this machine does not have it.
        """
        if devices < 1:
            raise UserError(f"training on {devices} devices is impossible: give 1 or more (--devices)")
        device = resolve_device(choice)
        if choice.startswith("cuda:"):
            if devices > 1:
                raise UserError(
                    f"{choice} is one device, {devices} were asked for: name the kind alone (--device cuda)"
                )
            return cls("cuda", [device.index or 0])
        if device.type == "cuda" and devices > torch.cuda.device_count():
            raise UserError(
                f"{devices} devices were asked for, this machine has {torch.cuda.device_count()} (--devices)"
            )
        return cls(device.type, devices)

    def fabric(self, precision: str) -> Fabric:
        """Ready for training in this precision; ``auto`` takes bfloat16 where that is quick."""
        for name in ("lightning.fabric", "lightning.pytorch"):  # the run itself says which precision it takes
            logging.getLogger(name).setLevel(logging.WARNING)
        chosen: Any = self._quick_precision() if precision == "auto" else precision
        return Fabric(accelerator=self.accelerator, precision=chosen, **self._processes())

    def _processes(self) -> dict[str, Any]:
        """Devices and nodes."""
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return {"devices": self.devices}
        here, everywhere = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
        return {"devices": here, "num_nodes": everywhere // here}

    def _quick_precision(self) -> str:
        on_cpu = self.accelerator == "cpu" or not torch.cuda.is_available()
        quick = fast_cpu_bfloat16() if on_cpu else torch.cuda.is_bf16_supported()
        return "bf16-mixed" if quick else "32-true"


def normalised_apart(fabric: Fabric, recipe: Recipe) -> list[str]:
    """A warning where processes learn the statistics of batch-norm each from its own crops."""
    learnt = any(s.batch_norm == "train" for s in recipe.stages) and not recipe.architecture.is_matterport
    if fabric.world_size == 1 or fabric.device.type == "cuda" or not learnt:
        return []
    return [
        "on this device each process learns batch-norm from its own crops: for the losses of a single "
        "process, keep its statistics (--set stages.batch_norm=frozen)"
    ]


@contextmanager
def in_one_line() -> Iterator[None]:
    """What the system or torch refuses becomes a UserError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if out_of_memory(error):
            raise UserError(NO_MEMORY) from None
        if "DataLoader worker" in str(error):  # torch tells no more than its number and signal
            raise UserError(f"the system ended a process that prepares crops: {NO_MEMORY}") from None
        raise
    except OSError as error:
        raise UserError(f"the run could not go on: {error}") from None


NO_MEMORY = (
    "there is not enough memory: take fewer crops a step (--set stages.batch_size=1), smaller ones "
    "(--set stages.crop=256), or keep fewer images (--set cache_gb=0.5)"
)
