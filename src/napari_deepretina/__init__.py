"""Segment, tune, correct, train and inspect nuclei in napari.

Importing the package is free of torch and Qt; public names load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_deepretina.inference.segment import Segmentation, segment
    from napari_deepretina.inference.stacks import StackSegmentation, segment_stack
    from napari_deepretina.model.weights import load_model
    from napari_deepretina.teaching.session import teach
    from napari_deepretina.training.run import train

__all__ = [
    "Segmentation",
    "StackSegmentation",
    "__version__",
    "load_model",
    "segment",
    "segment_stack",
    "teach",
    "train",
]

_LAZY = {
    "segment": "napari_deepretina.inference.segment",
    "Segmentation": "napari_deepretina.inference.segment",
    "segment_stack": "napari_deepretina.inference.stacks",
    "StackSegmentation": "napari_deepretina.inference.stacks",
    "load_model": "napari_deepretina.model.weights",
    "teach": "napari_deepretina.teaching.session",
    "train": "napari_deepretina.training.run",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("napari-deepretina")
        except PackageNotFoundError:  # a source tree that was never installed
            return "0+unknown"
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
