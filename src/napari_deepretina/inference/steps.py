"""Runs in steps: what lets a caller show progress and cancel without callbacks."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes
    ----------
    done : share of the work, 0…1.
    text : what is happening.
    partial : what a cancelled run would leave, if that is of any use; its type is the run's matter.
    grows : whether `partial` is worth showing while the run goes, for it only gets more.
    preview : the same as a result, where somebody made it.
    """

    done: float
    text: str
    partial: Any = None
    grows: bool = False
    preview: Any = None


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
