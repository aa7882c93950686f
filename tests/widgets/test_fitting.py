"""Docks fit small screens, whatever layers are called."""

import numpy as np
import pytest
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractSlider,
    QAbstractSpinBox,
    QComboBox,
    QLineEdit,
    QListWidget,
    QWidget,
)

DOCKS = ("Segment nuclei", "Tune", "Train", "Inspect")


@pytest.mark.parametrize("name", DOCKS)
def test_a_dock_needs_little_room(viewer, name):
    viewer.add_image(np.zeros((60, 60), np.uint8), name="a very long name of a layer " * 6)
    viewer.add_labels(np.zeros((60, 60), np.int32), name="nuclei of " + "a very long name of a layer " * 6)
    _, widget = viewer.window.add_plugin_dock_widget("napari-deepretina", name)
    least = widget.minimumSizeHint()
    assert least.height() <= 420
    assert least.width() <= 430
    assert all(box.minimumSizeHint().width() < 220 for box in widget.findChildren(QComboBox))


def test_all_docks_together_fit_a_small_screen(viewer):
    viewer.add_image(np.zeros((60, 60), np.uint8), name="cells")
    for name in DOCKS:
        viewer.window.add_plugin_dock_widget("napari-deepretina", name, tabify=True)
    window = viewer.window._qt_window
    least = window.minimumSizeHint()
    assert least.height() <= 720
    assert least.width() <= 1280


def test_tune_says_what_to_do_where_there_is_nothing_to_tune(viewer):
    _, tune = viewer.window.add_plugin_dock_widget("napari-deepretina", "Tune")
    assert not any(tune.tabs.widget(k).isEnabled() for k in range(3))
    assert "run Segment nuclei first" in tune.box.status.text()
    assert not tune.find_best_button.isEnabled()
    assert tune.settings().score >= 0


@pytest.mark.parametrize("name", DOCKS)
def test_every_control_says_what_it_is_for(viewer, name):
    _, widget = viewer.window.add_plugin_dock_widget("napari-deepretina", name)
    kinds = (QAbstractButton, QComboBox, QAbstractSlider, QAbstractSpinBox, QLineEdit, QListWidget)
    own = [
        w
        for w in widget.findChildren(QWidget)
        if isinstance(w, kinds)
        and w.objectName()
        and not w.objectName().startswith(("qt_", "magicgui", "Scroll"))
    ]
    assert len(own) > 8
    assert [w.objectName() for w in own if not w.toolTip()] == []
