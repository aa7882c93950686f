"""Memory: what is left of it, and giving back what the allocator keeps between what is still in use."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path

_CONTAINER = Path("/sys/fs/cgroup")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h


def release() -> None:
    """Return free pages of the heap to the system; on systems without glibc nothing happens."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


@functools.cache
def keep_blocks() -> None:
    """Let the heap keep blocks of the size of feature maps between two uses; it does nothing without glibc.

    By default each goes back to the system when it is freed, and to take its pages anew costs a tenth of a
    network's time. What is kept goes back with `release`, and at the heap's end by itself.
    """
    option = _of_glibc("mallopt")
    if option is not None:
        option(_MMAP_THRESHOLD, 128 << 20)
        option(_TRIM_THRESHOLD, 256 << 20)


class Trim:
    """Returns free pages of the heap whenever the process has grown a good deal since it last did.

    To return them costs little, to take them anew a fifth of the time of a small image.
    """

    GROWN = 500_000_000
    """Bytes."""

    def __init__(self) -> None:
        self._least: int | None = None

    def __call__(self) -> None:
        """Call it where much was let go of."""
        import psutil

        process = psutil.Process()
        now = process.memory_info().rss
        if self._least is None or now < self._least:
            self._least = now
        elif now > self._least + self.GROWN:
            release()
            self._least = process.memory_info().rss


def left() -> int:
    """Bytes that this process may still take: what the machine, its container and its own limits leave."""
    import psutil

    found: list[int] = [psutil.virtual_memory().available]
    try:
        most, used = ((_CONTAINER / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        found.append(int(most) - int(used))
    except (OSError, ValueError):  # no container, or one without a limit
        pass
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    except ImportError:  # Windows
        return min(found)
    if limit != resource.RLIM_INFINITY:
        found.append(limit - psutil.Process().memory_info().vms)
    return max(0, min(found))


@functools.cache
def _of_glibc(name: str) -> Callable[..., int] | None:
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - others have functions of these names that do other things
        found: Callable[..., int] = library[name]
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return None
    return found
