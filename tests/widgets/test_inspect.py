"""Inspect driven as a person does it."""

import time

import numpy as np
import pytest
import tifffile
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QPushButton

from napari_deepretina._widgets.step_layers import PREFIX, corners_of
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.inspection import STEPS
from napari_deepretina.inspection.errors import compare_labels

IMAGE, TRUTH = synthetic_nuclei((200, 260), 22, diameter=26, seed=6)


class Inspector:
    """The Inspect widget with a person's hands."""

    def __init__(self, viewer, qtbot):
        self.viewer, self.qtbot = viewer, qtbot
        _, self.widget = viewer.window.add_plugin_dock_widget("napari-deepretina", "Inspect")

    def press(self, name):
        self.qtbot.mouseClick(self.widget.findChild(QPushButton, name), Qt.MouseButton.LeftButton)

    def wait(self, condition, seconds=60):
        self.qtbot.waitUntil(lambda: bool(condition()), timeout=seconds * 1000)

    def told(self):
        return self.widget.box.status.text()

    def ran(self, **placed):
        self.viewer.add_image(IMAGE, name="field", **placed)
        self.press("run")
        self.wait(lambda: self.widget.steps is not None and self.widget.box.worker is None)
        return self.widget


@pytest.fixture
def inspector(viewer, qtbot):
    return Inspector(viewer, qtbot)


def test_the_slider_walks_the_steps_over_the_image(inspector):
    inspector.widget.weights.value = "nuclei-small"
    widget = inspector.ran(scale=(0.5, 0.5), translate=(10, 20))
    inspection = widget.steps.inspection
    for number, step in enumerate(STEPS):
        begun = time.perf_counter()
        widget.slider.setValue(number)
        layer = widget.steps.layers[step]
        print(step, round(time.perf_counter() - begun, 3))
        assert [x.name for x in inspector.viewer.layers if x.visible and x.name.startswith(PREFIX)] == [
            PREFIX + step
        ]
        assert np.allclose(layer.scale, 0.5)
        assert f"{number + 1} of {len(STEPS)}" in widget.step_name.text()
        if number < 6:
            columns = inspection.boxes(step, 250)
            assert np.allclose(np.array(layer.data), corners_of(columns["box"]))
            assert {"score", "level", "index"} <= set(layer.features)
    assert np.array_equal(widget.steps.layers["result"].data, inspection.labels)
    # a second run replaces the layers of the first, and nothing else
    before = len(inspector.viewer.layers)
    first = widget.steps
    inspector.press("run")
    inspector.wait(lambda: widget.steps is not first and widget.box.worker is None)
    assert len(inspector.viewer.layers) == before - len(STEPS) + 1


def test_what_training_would_learn_is_shown_over_the_image(inspector):
    inspector.press("show_learning")
    assert "Run first" in inspector.told()
    widget = inspector.ran(scale=(0.5, 0.5))
    inspector.viewer.add_labels(TRUTH, name="truth", scale=(0.5, 0.5))
    widget.learning.truth.value = "truth"
    for _ in range(2):  # the second time in the place of the first
        inspector.press("show_learning")
        inspector.wait(lambda: widget.box.worker is None and "Anchors:" in widget.learning.told.text())
    names = [x.name for x in inspector.viewer.layers if "learnt from" in x.name]
    assert names == [PREFIX + "anchors learnt from", PREFIX + "regions learnt from"]
    anchors, regions = (inspector.viewer.layers[name] for name in names)
    kinds = anchors.features["kind"].value_counts()
    assert set(kinds.index) == {"positive", "negative", "neutral"}
    assert kinds["positive"] + kinds["negative"] == 256
    assert np.allclose(anchors.scale, 0.5)
    hit = 0
    for corners in np.array(anchors.data)[(anchors.features["kind"] == "positive").to_numpy()]:
        (y0, x0), (y1, x1) = (
            np.clip(np.round(c).astype(int), 0, 260) for c in (corners.min(0), corners.max(0))
        )
        hit += bool(TRUTH[y0:y1, x0:x1].any())
    assert hit == kinds["positive"]
    assert (regions.features["kind"] == "positive").sum() > 10
    inspector.viewer.add_labels(TRUTH[:50], name="cut")
    widget.learning.truth.value = "cut"
    inspector.press("show_learning")
    inspector.wait(lambda: "must be of one size" in inspector.told())


def test_a_click_tells_a_story(inspector):
    widget = inspector.ran()
    labels = widget.steps.inspection.labels
    ys, xs = np.nonzero(labels == 3)

    class Click:
        position = (float(ys[len(ys) // 2]), float(xs[len(xs) // 2]))

    widget._on_click(inspector.viewer, Click)
    assert widget.story.text().startswith("Nucleus 3: anchor")
    assert widget.story_picture.pixmap.width() > 100
    QTest.mouseClick(widget.story_picture.widget(), Qt.MouseButton.LeftButton)
    assert widget.story_picture.window_of_its_own is not None
    widget.story_picture.window_of_its_own.close()
    ys, xs = np.nonzero(labels == 0)
    Click.position = (float(ys[0]), float(xs[0]))
    widget._on_click(inspector.viewer, Click)
    assert widget.story.text().startswith("Lost at: ")
    assert widget.story_picture.pixmap.isNull()  # it was of another nucleus
    widget.tabs.setCurrentIndex(2)
    widget.story.setText("")
    widget._on_click(inspector.viewer, Click)
    assert widget.story.text() == ""


def test_maps_lie_over_the_image(inspector):
    inspector.press("show_map")
    assert "Run first" in inspector.told()
    widget = inspector.ran(scale=(2, 2), translate=(5, 7))
    widget.map.value = "P4"
    inspector.press("show_map")
    layer = inspector.viewer.layers[f"{PREFIX}P4"]
    maps, scale, translate = widget.steps.inspection.activation("P4")
    assert layer.data is maps
    assert np.allclose(layer.scale[1:], np.multiply(2, scale))
    assert np.allclose(layer.translate[1:], np.array([5, 7]) + np.multiply(2, translate))


def test_weights_are_told(inspector):
    inspector.press("look_at_weights")
    widget = inspector.widget
    inspector.wait(lambda: "dead filters" in inspector.told() and widget.box.worker is None)
    assert widget.weights_picture.pixmap.height() > 100
    assert widget.weights_table.row_at(0)["layer"] == "backbone.body.conv1.weight"
    widget.other.value = "nuclei"
    inspector.press("look_at_weights")
    inspector.wait(lambda: "change" in widget.weights_table.row_at(0))
    assert widget.weights_table.row_at(0)["change"] == 0


def test_data_are_told_and_jumped_to(inspector, tmp_path):
    inspector.press("look_at_data")
    assert "Give a folder" in inspector.told()
    for k in range(3):
        image, labels = synthetic_nuclei((90, 90), 6, diameter=18, seed=k)
        if k == 2:
            labels[0, 0:2] = 50
        for kind, array in (("images", image), ("labels", labels)):
            (tmp_path / kind).mkdir(exist_ok=True)
            tifffile.imwrite(tmp_path / kind / f"{k}.tif", array)
    (tmp_path / "images" / "0.tif").unlink()
    inspector.widget.path.value = str(tmp_path)
    inspector.press("look_at_data")
    inspector.wait(lambda: "things to look at" in inspector.told())
    widget = inspector.widget
    assert widget.crops_picture.pixmap.width() > 100
    rows = [widget.oddities.row_at(k) for k in range(2)]
    kinds = {row["kind"]: row for row in rows}
    assert set(kinds) == {"tiny nucleus", "labels without image"}
    widget.oddities.picked.emit(kinds["tiny nucleus"])
    assert [x.name for x in inspector.viewer.layers] == ["2", "2 labels"]
    widget.oddities.picked.emit(kinds["labels without image"])
    assert "nothing to show" in inspector.told()


def test_errors_are_drawn_and_jumped_to(inspector):
    widget = inspector.widget
    inspector.press("look_at_errors")
    assert "Choose an image" in inspector.told()
    inspector.viewer.add_image(IMAGE, name="field")
    inspector.viewer.add_labels(TRUTH, name="truth")
    found = TRUTH.copy()
    found[found == 4] = 0
    inspector.viewer.add_labels(found, name="prediction")
    widget.truth.value, widget.predicted.value = "truth", "prediction"
    inspector.press("look_at_errors")
    inspector.wait(lambda: "1 miss" in inspector.told())
    layer = inspector.viewer.layers[f"{PREFIX}errors"]
    assert set(np.unique(layer.data)) == {0, 1, 2}
    assert ((layer.data == 2) == (TRUTH == 4)).all()
    told = widget.errors_table.text().splitlines()
    assert [line.split()[0] for line in told] == ["IoU", "AP", "F1"]
    assert told[1].split()[1:] == [f"{v:.2f}" for v in compare_labels(TRUTH, found).score.ap]
    worst = widget.worst.row_at(0)
    assert (worst["true"], worst["IoU"]) == (4, 0)
    widget.worst.picked.emit(worst)
    # again: the layer is replaced, not doubled
    inspector.press("look_at_errors")
    inspector.wait(lambda: widget.box.worker is None)
    assert [x.name for x in inspector.viewer.layers].count(f"{PREFIX}errors") == 1


def test_without_an_image_it_is_told(inspector):
    inspector.press("run")
    assert "no image layer" in inspector.told()


def test_the_score_is_the_one_that_the_weights_recommend(inspector):
    from napari_deepretina.model.weights import advised_score

    for name in ("nuclei", "nuclei-small"):
        inspector.widget.weights.value = name
        assert inspector.widget.score.value == pytest.approx(advised_score(name))
    assert advised_score("nuclei") != advised_score("nuclei-small")
    assert advised_score("gone") is None


def test_layers_go_with_the_window_but_for_what_a_person_changed(inspector, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "napari_deepretina._widgets.inspect.keep_changed", lambda _, names: asked.append(names) or True
    )
    widget = inspector.ran()
    for number in (0, len(STEPS) - 1):
        widget.slider.setValue(number)
    inspector.press("show_map")
    widget.steps.layers["result"].data[:9, :9] = 77
    inspector.viewer.add_labels(TRUTH, name="mine")
    inspector.viewer.window.remove_dock_widget(widget.parent())
    inspector.wait(lambda: widget.steps is None)
    assert asked == [[PREFIX + "result"]]
    assert [x.name for x in inspector.viewer.layers] == ["field", "result", "mine"]


def test_maps_lie_over_a_turned_and_sheared_image(inspector):
    turned = {"rotate": 30, "shear": [0.2], "scale": (0.5, 0.25), "translate": (3, -7), "units": ("um", "um")}
    widget = inspector.ran(**turned)
    image = inspector.viewer.layers["field"]
    inspector.press("show_map")
    layer = widget.steps.maps[0]
    _, scale, translate = widget.steps.inspection.activation("P3")
    assert [str(u) for u in layer.units[1:]] == [str(u) for u in image.units]
    for place in ((0, 0), (5, 11), (20, 3)):
        pixel = np.array(place) * scale + translate
        assert layer.data_to_world((2, *place))[1:] == pytest.approx(image.data_to_world(pixel))
