"""A graphics card's memory: what goes up and comes back, and how many images fit together."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch

from napari_deepretina.model.regions import Detections

UNTRIED, MOST = 4, 32
"""Images that are looked at together before anything is known, and at most."""
SHARE = 0.7
"""Of the free memory that a batch may take: what is known of one size is guessed for another."""


def uploaded(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A batch on a device; to a card it goes while the processor does other things."""
    if device.type != "cuda":
        return images.to(device)
    return images.pin_memory().to(device, non_blocking=True)


def downloaded(found: Sequence[Detections]) -> list[Detections]:
    """Detections of a batch on the CPU; a card is waited for once, not for each tensor."""
    there = {detections.boxes.device for detections in found}
    here = [
        Detections(*(t.to("cpu", non_blocking=True) for t in (d.boxes, d.scores, d.classes, d.masks)))
        for d in found
    ]
    for device in there:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return here


class Memory(Protocol):
    """What `Room` asks of a device."""

    def free(self) -> int:
        """Bytes that could be taken."""

    def begin(self) -> None:
        """Count the highest use from now on."""

    def used(self) -> int:
        """Bytes at that highest use, beyond those at the beginning."""


class CudaMemory:
    """Memory of a card, as torch's allocator tells it."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._before = device, 0

    def free(self) -> int:
        """Bytes that could be taken: those of the driver, and those that the allocator keeps unused."""
        driver, _ = torch.cuda.mem_get_info(self._device)
        kept = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return int(driver + kept)

    def begin(self) -> None:
        """Count the highest use from now on."""
        torch.cuda.reset_peak_memory_stats(self._device)
        self._before = torch.cuda.memory_allocated(self._device)

    def used(self) -> int:
        """Bytes at that highest use, beyond those at the beginning."""
        return int(torch.cuda.max_memory_allocated(self._device) - self._before)


class Room:
    """How many images fit on a device together, by the memory that earlier ones took.

    Parameters
    ----------
    memory : None for a device where batches gain nothing: there it is one image at a time.
    """

    def __init__(self, memory: Memory | None) -> None:
        self._memory = memory
        self._per_megapixel = 0.0

    def most(self, megapixels: float) -> int:
        """Images of this size that may be looked at together, at least one."""
        if self._memory is None:
            return 1
        if not self._per_megapixel:
            return UNTRIED
        fits = SHARE * self._memory.free() / (self._per_megapixel * megapixels)
        return max(1, min(MOST, int(fits)))

    @contextmanager
    def measured(self, megapixels: float) -> Iterator[None]:
        """Learn from what is done within, on images of so many megapixels in all."""
        if self._memory is None:
            yield
            return
        self._memory.begin()
        yield
        self._per_megapixel = max(self._per_megapixel, self._memory.used() / megapixels)


@functools.cache
def room_on(device: torch.device) -> Room:
    """What is known of a device in this process; crowded images take more, and the most counts."""
    return Room(CudaMemory(device) if device.type == "cuda" else None)
