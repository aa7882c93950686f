"""Teach in Review, as a person uses it."""

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QInputDialog, QPushButton

from napari_deepretina._widgets.own_labels import KEY, RAW
from napari_deepretina._widgets.teaching import CHANGED, paths_around
from napari_deepretina._widgets.tools_layer import outlines
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.model.weights import available, read_info

WEIGHTS = "nuclei-small"
ASKED = {"weights": WEIGHTS, "specialist": "never"}


@pytest.fixture(scope="module")
def seen(nuclei_model):
    """A noisy image of whose nuclei the network finds half, its truth and the network's answer."""
    from napari_deepretina.inference.segment import segment_steps
    from napari_deepretina.inference.settings import make_settings
    from napari_deepretina.inference.steps import drain

    image, truth = synthetic_nuclei((256, 256), 24, diameter=26, kind="tissue", seed=6)
    noise = np.random.default_rng(0).normal(120, 25, image.shape)
    image = (0.3 * image + noise).clip(0, 255).astype(np.uint8)
    found = drain(segment_steps(image, nuclei_model, make_settings(**ASKED), tunable=True))
    return image, truth, found


class Taught:
    """Segmented nuclei, Review over them, and a person's hands."""

    def __init__(self, panel, qtbot, seen):
        from napari_deepretina._widgets.result_layers import Run, show

        self.qtbot, self.viewer, self.panel = qtbot, panel.viewer, panel
        image, self.truth, found = seen
        layer = self.viewer.add_image(image, name="pale")
        asked = {"index": [None, None, None], "settings": ASKED}
        self.layer = show(self.viewer, found, Run("pale", layer, {}, (), asked))
        _, self.widget = self.viewer.window.add_plugin_dock_widget("napari-deepretina", "Tune")
        self.review, self.box = self.widget.review, self.widget.box

    @property
    def document(self):
        return self.layer.metadata[RAW].document

    @property
    def labels(self):
        return np.array(self.layer.data)

    def press(self, text):
        """A button by its object name, or by the text of an offer."""
        button = self.widget.findChild(QPushButton, text)
        button = button or next(b for b in self.box.offers if b.text() == text)
        self.qtbot.mouseClick(button, Qt.MouseButton.LeftButton)

    def wait(self):
        self.qtbot.waitUntil(lambda: self.box.worker is None, timeout=120_000)
        return self.box.status.text()

    def correct(self):
        """Draw nuclei that were missed, accept one, delete one."""
        missed = [i for i in range(1, 13) if not (self.layer.data[self.truth == i] > 0).any()]
        for label in missed:
            self.layer.data_setitem(np.nonzero(self.truth == label), self.document.last_id + 1)
            self.review.view.take_over()
        first, second = self.document.present[:2].tolist()
        self.document.accept(first)
        self.document.delete(second)
        return first, second


@pytest.fixture
def taught(panel, qtbot, seen, monkeypatch):
    monkeypatch.setattr("napari_deepretina.teaching.learning.STEPS", 40)
    monkeypatch.setattr("napari_deepretina.teaching.learning.MORE", 10)
    return Taught(panel, qtbot, seen)


def test_what_was_corrected_is_learnt_kept_and_used(taught, monkeypatch):
    first, second = taught.correct()
    before, states = taught.labels, dict(taught.document.nuclei)
    taught.press("teach")
    assert taught.wait().startswith("Teaching helped"), taught.box.status.text()
    # what a person did stays as it is
    touched = [i for i, n in states.items() if n.state in ("accepted", "drawn", "edited")]
    assert first in touched
    for label in touched:
        assert np.array_equal(taught.labels == label, before == label)
        assert taught.document.nuclei[label] == states[label]
    assert taught.document.nuclei[second].state == "deleted"
    assert not (taught.labels == second).any()
    # what changed is marked, listed and counted
    new = set(taught.document.present.tolist()) - set(np.unique(before).tolist())
    changed = taught.review.teaching.changed
    assert new <= changed
    assert f"{len(new)} new" in taught.box.status.text()
    assert (CHANGED in taught.viewer.layers) == bool(changed)
    taught.review.shown.value = CHANGED
    assert set(taught.review.table.labels.tolist()) == changed
    taught.review.shown.value = "all nuclei"
    # undone, and done again
    after = taught.labels
    taught.press("Undo")
    assert np.array_equal(taught.labels, before)
    assert CHANGED not in taught.viewer.layers
    taught.press("redo")
    assert np.array_equal(taught.labels, after)
    # kept under a name, it is in Segment's list, and says what it is
    monkeypatch.setattr(QInputDialog, "getText", lambda *_, text="", **__: (text, True))
    taught.review.teaching.keep()
    assert taught.wait() == "Kept as 'pale taught': Segment uses it now, on this and on other images."
    try:
        assert taught.panel.widget.weights.value == "pale taught"
        assert read_info(available()["pale taught"]).taught.base == WEIGHTS
        assert taught.layer.metadata[KEY]["settings"]["weights"] == "pale taught"
        # and is taught on: its images are remembered, this one is not counted twice
        taught.document.accept(taught.document.present[-1])
        taught.review.refresh()
        taught.press("teach")
        assert "images" not in taught.wait()
    finally:
        available()["pale taught"].unlink()


def test_paths_are_those_of_the_whole_picture():
    labels = np.zeros((2, 40, 50), int)
    labels[0, 3:9, 30:44], labels[1, 0:5, 0:7], labels[1, 20:30, 45:50] = 4, 4, 7
    for ids in ([4], [7], [4, 7]):
        near = sorted(paths_around(labels, ids), key=lambda p: p.tolist())
        far = sorted((p for i in ids for p in outlines(labels, i)), key=lambda p: p.tolist())
        assert len(near) == len(far)
        assert all(np.array_equal(a, b) for a, b in zip(near, far, strict=True))


def test_where_teaching_does_not_help_nothing_changes(taught, monkeypatch):
    monkeypatch.setattr("napari_deepretina.teaching.told.Told.worse_than", lambda *_: True)
    taught.correct()
    before = taught.labels
    taught.press("teach")
    assert "did not help" in taught.wait()
    assert np.array_equal(taught.labels, before)
    assert [button.text() for button in taught.box.offers] == ["Teach more"]


def test_without_corrections_it_says_what_to_do(taught):
    taught.press("teach")
    assert "Nothing was corrected yet" in taught.box.status.text()
    assert taught.box.worker is None


def test_cancelled_nothing_changes(taught):
    taught.correct()
    before = taught.labels
    taught.press("teach")
    taught.qtbot.waitUntil(lambda: "earning" in taught.box.status.text(), timeout=60_000)
    taught.press("cancel")
    assert taught.wait() == "Cancelled; nothing was changed."
    assert np.array_equal(taught.labels, before)


def test_an_image_that_was_closed_is_named(taught):
    taught.correct()
    taught.viewer.layers.remove("pale")
    taught.press("teach")
    assert "'pale' is not open any more" in taught.box.status.text()
