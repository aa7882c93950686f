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


def real_window(viewer, width=1280, height=720):
    """The viewer's window on a screen, of this size."""
    window = viewer.window._qt_window
    window.resize(width, height)
    window.show()
    return window


@pytest.mark.parametrize(
    ("names", "theme"),
    [*(((n,), "dark") for n in DOCKS), (DOCKS, "light")],
    ids=[*DOCKS, "all"],
)
def test_every_control_can_be_reached_in_a_small_window(viewer, qtbot, names, theme):
    from qtpy.QtCore import QPoint, QRect
    from qtpy.QtWidgets import QDockWidget, QScrollArea, QTabWidget

    from napari_deepretina._widgets.dock import Dock

    viewer.theme = theme
    viewer.add_image(np.zeros((60, 60), np.uint8), name="a long name of a layer " * 4)
    window = real_window(viewer)
    for name in names:
        viewer.window.add_plugin_dock_widget("napari-deepretina", name)
        qtbot.wait(60)
    assert window.width() <= 1280
    assert window.height() <= 720
    seen = 0
    for dock in window.findChildren(Dock):
        holder = dock.parent()
        while not isinstance(holder, QDockWidget):
            holder = holder.parent()
        holder.raise_()
        qtbot.wait(60)
        for control in dock.findChildren(QWidget):
            if not isinstance(control, QAbstractButton | QComboBox | QAbstractSpinBox | QLineEdit):
                continue
            if control.isHidden() or not control.objectName() or control.objectName().startswith("qt_"):
                continue
            above = control.parent()
            while above is not dock:
                if isinstance(above.parent(), QWidget) and isinstance(above.parent().parent(), QTabWidget):
                    above.parent().parent().setCurrentWidget(above)
                if isinstance(above, QScrollArea):
                    above.ensureWidgetVisible(control)
                above = above.parent()
            qtbot.wait(1)
            if not control.isVisible():
                continue
            place = QRect(control.mapTo(window, QPoint(0, 0)), control.size())
            assert window.rect().contains(place), (dock.title, control.objectName(), place)
            seen += 1
    assert seen >= 8 * len(names)


def test_the_tab_key_goes_down_the_form(panel, qtbot):
    window = real_window(panel.viewer)
    qtbot.wait(50)
    names = ["image", "region", "channel", "weights", "device", "views"]
    boxes = [panel.widget.findChild(QComboBox, name) for name in names]
    boxes[0].setFocus()
    chain, here = [], boxes[0]
    for _ in range(40):
        here = here.nextInFocusChain()
        if here in boxes:
            chain.append(here.objectName())
    assert [n for n in chain if n in names][: len(names) - 1] == names[1:]
    assert window.isVisible()
