"""Controls for the settings of post-processing."""

from __future__ import annotations

from typing import Any

from magicgui.widgets import CheckBox, ComboBox, FloatSlider, Slider, SpinBox

from napari_deepretina.documented import meanings
from napari_deepretina.postprocess import PostprocessSettings

TITLES = {
    "score": "lowest score",
    "nms": "overlap allowed (NMS)",
    "views": "views that count",
    "votes": "views that must agree",
    "merge_iou": "views join from IoU",
    "dilation": "grow or shrink, px",
    "min_area": "smallest area, px",
    "max_area": "largest area, px",
    "drop_border": "leave out at border",
}
"""What the sliders are called where their setting's name would not do."""


def sliders() -> dict[str, Any]:
    """One control a setting, by its name, in the order in which a person meets them."""
    controls: dict[str, Any] = {
        "score": FloatSlider(min=0.05, max=0.99, step=0.01),
        "nms": FloatSlider(min=0.05, max=0.7, step=0.01),
        "mask_threshold": FloatSlider(min=0.05, max=0.95, step=0.01),
        "views": Slider(min=1, max=15),
        "votes": Slider(min=1, max=15),
        "merge_iou": FloatSlider(min=0.3, max=0.9, step=0.01),
        "dilation": Slider(min=-5, max=10),
        "min_area": SpinBox(min=1, max=1_000_000, value=4),
        "max_area": SpinBox(min=0, max=100_000_000, value=0),
        "fill_holes": CheckBox(text=""),
        "drop_border": CheckBox(text=""),
        "method": ComboBox(choices=["corrected", "original"]),
    }
    for name, control in controls.items():
        control.native.setObjectName(name)
        control.label = TITLES.get(name, name.replace("_", " "))
        control.tooltip = meanings(PostprocessSettings).get(name, "")
    return controls
