"""Runs in steps: what lets a caller show progress and cancel without callbacks."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes
    ----------
    done : share of the work, 0…1.
    text : what is happening.
    partial : what a cancelled run would leave, if that is of any use; its type is the run's matter.
    patch : what came to the result since the step before, to be shown: a function without arguments that
        gives a `Patch`.
    """

    done: float
    text: str
    partial: Any = None
    patch: Any = None


@dataclass(frozen=True)
class Patch:
    """Labels of a part of a result, as far as they are known.

    Attributes
    ----------
    shape : of the whole.
    start : position of the part's first pixel on each axis of the whole.
    labels : int32 with as many axes; ids are only good for colours.
    """

    shape: tuple[int, ...]
    start: tuple[int, ...]
    labels: NDArray[np.int32]


Steps = Generator[Progress, None, T]
"""A run in steps; closing it cancels, its return value is the result."""


def within(steps: Steps[T], start: float, end: float) -> Steps[T]:
    """Steps as a part of more, from one share of it to another; what they would leave or show stays out."""
    while True:
        try:
            step = next(steps)
        except StopIteration as over:
            result: T = over.value
            return result
        yield Progress(start + (end - start) * step.done, step.text)


def drain(steps: Generator[Any, None, T], tell: Callable[[str], None] | None = None) -> T:
    """Run all steps and give the result; `tell` gets what each has to say."""
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        if tell and step.text:
            tell(step.text)
