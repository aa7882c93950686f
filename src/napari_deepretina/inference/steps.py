"""Runs in steps: what lets a caller show progress and cancel without callbacks."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from napari_deepretina.instances import RawInstances

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """Where a run stands: share done, 0…1, what is happening, and what there is to show already."""

    done: float
    text: str
    partial: RawInstances | None = None


Steps = Generator[Progress, None, T]
"""A run in steps; closing it cancels, its return value is the result."""


def drain(steps: Generator[Any, None, T]) -> T:
    """Run all steps and give the result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
