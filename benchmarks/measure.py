"""Seconds side by side, and the peak memory of a piece of work in a process of its own."""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def side_by_side(
    contestants: Mapping[str, Callable[[], object]], *, runs: int = 5, warmup: int = 1
) -> dict[str, float]:
    """Median seconds of each: all of them in turn, again and again, so that drift hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(warmup + runs):
        for name, work in contestants.items():
            begun = time.perf_counter()
            work()
            if number >= warmup:
                seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(all_of_it) for name, all_of_it in seconds.items()}


def peak_megabytes(work: Callable[..., Callable[[], object]], *arguments: Any) -> float:
    """How much the peak of a fresh process rises while a piece of work runs.

    Parameters
    ----------
    work : importable function that prepares everything and returns what is to be measured.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(theirs, work, arguments))
    process.start()
    theirs.close()
    try:
        rise: float = ours.recv()
    except EOFError:
        raise RuntimeError(f"{work}{arguments} ended without an answer") from None
    finally:
        process.join()
    return rise


def _measured(answer: Any, work: Callable[..., Callable[[], object]], arguments: tuple[Any, ...]) -> None:
    prepared = work(*arguments)
    before = _current_kilobytes()
    # Peak since the process began would hide what preparing took: start counting anew.
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    prepared()
    answer.send((_peak_kilobytes() - before) / 1024)


def _current_kilobytes() -> int:
    return _status("VmRSS")


def _peak_kilobytes() -> int:
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _status(key: str) -> int:
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(key + ":"):
                return int(line.split()[1])
    return 0


def table(head: list[str], rows: list[list[object]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
