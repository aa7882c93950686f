"""Importing torch beside OpenGL drivers that bring an LLVM of their own."""

from __future__ import annotations

import sys
from pathlib import Path


def import_torch() -> None:
    """Import torch and torchvision so that the viewer survives it; call before anything else does.

    On Linux, Mesa's drivers for software rendering and AMD cards load libLLVM. Triton, which
    torchvision pulls in by way of ``torch._dynamo``, holds another LLVM, and loading it after the
    first one ends the process with a segmentation fault. We need no Triton: where that LLVM is
    loaded already, its import is answered with ImportError, which torch is made to live with.
    """
    if "torchvision" not in sys.modules and "triton" not in sys.modules and _llvm_is_loaded():
        sys.modules["triton"] = None  # type: ignore[assignment]
    import torchvision  # noqa: F401


def _llvm_is_loaded(maps: Path = Path("/proc/self/maps")) -> bool:
    try:
        return "libLLVM" in maps.read_text()
    except OSError:  # not Linux
        return False
