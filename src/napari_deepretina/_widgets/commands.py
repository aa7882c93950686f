"""Entries of the command palette and sample images."""

from __future__ import annotations

from typing import Any

import napari.viewer

from napari_deepretina._widgets.segment import SegmentWidget

TITLE = "Segment nuclei"


def segment_now(viewer: napari.viewer.Viewer) -> None:
    """Open the Segment widget if need be, and run it on the active image."""
    _, widget = viewer.window.add_plugin_dock_widget("napari-deepretina", TITLE)
    assert isinstance(widget, SegmentWidget)
    widget.run()


def sample_fluorescence() -> list[tuple[Any, dict[str, Any], str]]:
    """Generated bright nuclei."""
    return _sample("fluorescence")


def sample_tissue() -> list[tuple[Any, dict[str, Any], str]]:
    """Generated stained nuclei."""
    return _sample("tissue")


def sample_immunohistochemistry() -> list[tuple[Any, dict[str, Any], str]]:
    """scikit-image's picture of real tissue."""
    return _sample("immunohistochemistry")


def _sample(name: str) -> list[tuple[Any, dict[str, Any], str]]:
    from napari_deepretina.data.samples import sample_image

    return [(sample_image(name), {"name": name}, "image")]
