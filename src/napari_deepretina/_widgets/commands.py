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


def sample_human_mitosis() -> list[tuple[Any, dict[str, Any], str]]:
    """Real human cells in fluorescence."""
    return _sample("human_mitosis")


def sample_skin() -> list[tuple[Any, dict[str, Any], str]]:
    """A real section of skin."""
    return _sample("skin")


def sample_cells3d() -> list[tuple[Any, dict[str, Any], str]]:
    """A real z-stack: membranes and nuclei in micrometres."""
    from napari_deepretina.data.samples import cells3d

    stack = cells3d()
    told = {"scale": (0.29, 0.26, 0.26), "units": ("um",) * 3, "blending": "additive"}
    return [
        (stack[:, 0], {**told, "name": "membranes", "colormap": "magenta"}, "image"),
        (stack[:, 1], {**told, "name": "nuclei", "colormap": "gray"}, "image"),
    ]


def _sample(name: str) -> list[tuple[Any, dict[str, Any], str]]:
    from napari_deepretina.data.samples import sample_image

    return [(sample_image(name), {"name": name}, "image")]
