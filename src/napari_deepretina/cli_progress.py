"""What a command reports while it works: lines, and on a terminal a bar with the time left."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Generator
from types import TracebackType
from typing import Any, Self, TypeVar

from napari_deepretina.errors import printable

T = TypeVar("T")


def add_loudness(parser: argparse.ArgumentParser) -> None:
    """Declare ``--quiet`` and ``--verbose``."""
    loud = parser.add_mutually_exclusive_group()
    loud.add_argument("--quiet", action="store_true", help="print nothing but errors")
    loud.add_argument("--verbose", action="store_true", help="on a terminal, print every line beside the bar")


class Reporter:
    """Prints lines to standard output, and where standard error is a terminal keeps a bar below them.

    Parameters
    ----------
    quiet : print nothing.
    verbose : print lines that only tell of progress although there is a bar.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self._quiet, self._verbose = quiet, verbose
        self._bar: Any = None
        self._last = 0.0

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Self:
        """As ``--quiet`` and ``--verbose`` say."""
        return cls(quiet=arguments.quiet, verbose=arguments.verbose)

    def __enter__(self) -> Self:
        if not self._quiet and sys.stderr.isatty():
            from tqdm import tqdm

            form = "{percentage:3.0f}%|{bar}| {elapsed} gone, {remaining} left {postfix}"
            self._bar = tqdm(total=1.0, bar_format=form, file=sys.stderr, leave=False, dynamic_ncols=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def say(self, text: str) -> None:
        """A line that a person wants to keep."""
        if self._quiet or not text:
            return
        text = printable(text)
        if self._bar is None:
            print(text, flush=True)
        else:
            self._bar.write(text, file=sys.stdout)

    def at(self, done: float, text: str = "", beside: str = "") -> None:
        """Work stands at a share, 0…1; the line is left out where a bar shows as much.

        Parameters
        ----------
        beside : what stands beside the bar.
        """
        if text and (self._bar is None or self._verbose):
            self.say(text)
        if self._bar is not None:
            self._bar.set_postfix_str(beside, refresh=bool(beside))
            self._bar.update(max(0.0, done - self._last))
            self._last = max(done, self._last)

    def drain(self, steps: Generator[Any, None, T]) -> T:
        """Run all steps (see `napari_deepretina.inference.steps`) and give the result."""
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                result: T = end.value
                return result
            self.at(step.done)
            self.say(step.text)
