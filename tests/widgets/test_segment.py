import json
import threading

import numpy as np
import pytest

from napari_deepretina._widgets import jobs
from napari_deepretina._widgets.own_labels import KEY
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.errors import UserError
from napari_deepretina.inference.steps import Progress
from napari_deepretina.model.weights import load_model


@pytest.fixture(scope="module")
def field():
    return synthetic_nuclei((160, 192), 14, diameter=30, seed=3)


def test_a_person_opens_an_image_presses_run_and_sees_nuclei(panel, field):
    from napari_deepretina.evaluation import match

    image, truth = field
    panel.viewer.add_image(image, name="cells")
    told = panel.run()
    (layer,) = panel.labels()
    assert layer.name == "cells nuclei"
    assert layer.data.dtype == np.int32
    assert layer.data.shape == image.shape
    assert match(truth, layer.data).counts(0.5)[0] >= 0.8 * truth.max()
    count = int(layer.data.max())
    assert f"{count} nuclei" in told
    assert "CPU" in told
    panel.qtbot.waitUntil(lambda: "x0" in layer.features, timeout=10_000)
    table = layer.features
    assert len(table) == count
    assert list(table.columns)[:7] == ["index", "state", "source", "score", "votes", "class", "area"]
    row = table.iloc[2]
    ys, xs = np.nonzero(layer.data == 3)
    assert (row["index"], row.area) == (3, len(ys))
    assert (row.x0, row.y0, row.x1, row.y1) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
    mark = layer.metadata[KEY]
    assert len(mark["weights"]["sha256"]) == 64
    assert mark["settings"]["weights"] == "nuclei"
    json.dumps(mark)


def test_the_network_for_tissue_is_a_choice_where_there_is_one(panel, field, paired_weights, tiny_weights):
    form = panel.widget
    form.use_weights(str(tiny_weights))
    assert not form.specialist.enabled
    form.use_weights(str(paired_weights))
    assert form.specialist.enabled
    form.intensity.value = "haematoxylin and brown"
    assert form.settings()["intensity"] == "haematoxylin+brown"
    form.intensity.value = "automatic"
    advised = float(form.score.value)
    assert "score" not in form.settings()  # each network has its own
    assert "Left alone, it is 0.4 for stained tissue and unstained cells." in form.score.tooltip
    form.score.value = 0.05
    assert form.settings()["score"] == 0.05
    form.score.value = advised
    assert form.settings()["score"] == advised  # now it was chosen, for both
    form.use_weights(str(tiny_weights))
    form.use_weights(str(paired_weights))
    assert "score" not in form.settings()
    form.score.value = 0.05
    panel.viewer.add_image(field[0], name="cells")
    assert "looked at with" not in panel.run()
    form.specialist.value = "always"
    assert "looked at with pair-tissue" in panel.run()


def test_labels_lie_exactly_over_their_image(panel, field):
    image, _ = field
    layer = panel.viewer.add_image(
        image,
        scale=(0.5, 0.25),
        translate=(3, -4),
        rotate=20,
        shear=[0.1],
        units=("um", "um"),
        axis_labels=("row", "col"),
        affine=[[1, 0.2, 5], [0, 1, -3], [0, 0, 1]],
    )
    panel.run()
    (labels,) = panel.labels()
    for corner in ((0, 0), (10, 70), (159, 3)):
        assert labels.data_to_world(corner) == pytest.approx(layer.data_to_world(corner))
    assert labels.units == layer.units
    assert labels.axis_labels == layer.axis_labels


def test_a_plane_of_a_stack_keeps_its_place(panel, field):
    image, _ = field
    stack = np.stack([np.zeros_like(image), image, np.zeros_like(image)])[None].repeat(9, axis=0)
    layer = panel.viewer.add_image(stack, scale=(1, 4, 0.5, 0.5), translate=(0, 0, 7, 9), name="stack")
    panel.viewer.dims.set_current_step(1, 1)
    panel.run()
    (labels,) = panel.labels()
    assert labels.data.max() > 8
    assert labels.data_to_world((5, 6)) == pytest.approx(layer.data_to_world((0, 0, 5, 6))[-2:])
    assert labels.metadata[KEY]["index"][1] == 1


def test_colour_and_channels(panel, field):
    image, _ = field
    colour = np.stack([np.zeros_like(image), image, np.zeros_like(image)], axis=-1)
    panel.viewer.add_image(colour, rgb=True, name="rgb")
    assert panel.widget.channel.choices == (-1, 0, 1, 2)
    panel.widget.channel.value = 0
    panel.run()
    assert panel.labels()[-1].data.max() == 0
    panel.widget.channel.value = 1
    panel.run()
    assert panel.labels()[-1].data.max() > 8


def test_running_again_updates_or_adds_by_choice(panel, field):
    panel.viewer.add_image(field[0], name="cells")
    panel.run()
    first = panel.labels()[0]
    panel.widget.score.value = 0.95
    panel.run()
    assert panel.labels() == [first]
    assert first.metadata[KEY]["settings"]["score"] == 0.95
    panel.widget.result.value = "make a new layer"
    panel.run()
    assert len(panel.labels()) == 2


@pytest.mark.parametrize("answer", ["new", "replace", "cancel"])
def test_edited_labels_are_never_replaced_without_asking(panel, field, monkeypatch, answer):
    panel.viewer.add_image(field[0], name="cells")
    panel.run()
    (layer,) = panel.labels()
    layer.data_setitem((np.array([0, 0]), np.array([0, 1])), 999)
    asked = []
    monkeypatch.setattr(
        "napari_deepretina._widgets.segment.ask_about_edits",
        lambda _, layer: asked.append(layer.name) or answer,
    )
    panel.run()
    assert asked == ["cells nuclei"]
    kept = layer.data[0, 0] == 999
    assert kept == (answer != "replace")
    assert len(panel.labels()) == (2 if answer == "new" else 1)


def paced(gate):
    """A job that waits in its midst, as a long network run would."""

    def job(image, values, cache):
        yield Progress(0.2, "looking for nuclei")
        gate.wait(30)
        yield Progress(0.3, "looking for nuclei")
        return (yield from jobs.segment_job(image, values, cache))

    return job


@pytest.fixture
def gate(monkeypatch):
    gate = threading.Event()
    monkeypatch.setattr("napari_deepretina._widgets.segment.segment_job", paced(gate))
    yield gate
    gate.set()


def begin(panel, qtbot):
    panel.click()
    assert panel.button.text() == "Cancel"
    qtbot.waitUntil(lambda: panel.widget.box.bar.value() == 20, timeout=20_000)


def test_cancel_leaves_the_viewer_as_it_was(panel, field, gate, qtbot):
    panel.viewer.add_image(field[0])
    begin(panel, qtbot)
    panel.click()
    assert not panel.button.isEnabled()
    gate.set()
    panel.wait()
    assert panel.labels() == []
    assert "Cancelled" in panel.widget.box.status.text()
    assert "nuclei in" in panel.run()  # and the widget works on


def test_cancelling_among_several_views_keeps_those_done(panel, field, monkeypatch, qtbot):
    held = threading.Event()

    def job(image, values, cache):
        waited = False
        for step in jobs.segment_job(image, values, cache):
            yield step
            if step.partial is not None and not waited:
                waited = held.wait(30)

    monkeypatch.setattr("napari_deepretina.inference.predict.MEGAPIXELS_AT_ONCE", 0.01)
    monkeypatch.setattr("napari_deepretina._widgets.segment.segment_job", job)
    panel.viewer.add_image(field[0], name="cells")
    panel.widget.views.value = "flips"
    panel.click()
    qtbot.waitUntil(lambda: "view 2 of 4" in panel.widget.box.status.text(), timeout=30_000)
    panel.click()
    held.set()
    panel.wait()
    assert "cancelled after 1 of 4 views" in panel.widget.box.status.text()
    assert panel.labels()[0].data.max() > 8


def test_edits_made_during_a_run_survive_it(panel, field, gate, qtbot):
    panel.viewer.add_image(field[0], name="cells")
    gate.set()
    panel.run()
    gate.clear()
    (layer,) = panel.labels()
    begin(panel, qtbot)
    layer.data_setitem((np.array([0]), np.array([0])), 999)
    gate.set()
    panel.wait()
    assert layer.data[0, 0] == 999
    assert len(panel.labels()) == 2


def test_layers_removed_during_a_run(panel, field, gate, qtbot):
    image = panel.viewer.add_image(field[0], name="cells", scale=(2, 2))
    begin(panel, qtbot)
    panel.viewer.layers.remove(image)
    gate.set()
    panel.wait()
    (labels,) = panel.labels()
    assert labels.scale.tolist() == [2, 2]
    assert "was removed meanwhile" in panel.widget.box.status.text()


def test_closing_the_panel_cancels_the_run(panel, field, gate, qtbot):
    panel.viewer.add_image(field[0])
    begin(panel, qtbot)
    worker = panel.widget.box.worker
    panel.viewer.window.remove_dock_widget(panel.dock)
    with qtbot.waitSignal(worker.finished, timeout=20_000):
        gate.set()
    assert panel.labels() == []


def test_without_an_image_the_panel_says_what_to_do(panel):
    assert "no image layer" in panel.run()


@pytest.mark.parametrize(
    "image",
    [np.zeros((1, 1)), np.full((40, 50), 7), np.full((40, 50), np.nan)],
    ids=["1x1", "constant", "nan"],
)
def test_odd_images_give_an_empty_layer(panel, image):
    panel.viewer.add_image(image, contrast_limits=(0, 1))
    assert "No nuclei" in panel.run()
    assert panel.labels()[0].data.shape == image.shape


def test_the_default_weights_are_chosen_with_their_advice(panel):
    assert panel.widget.weights.value == "nuclei"
    assert panel.widget.weights.choices[:2] == ("nuclei", "nuclei-small")
    advice = {name: load_model(name, "cpu").info.postprocess["score"] for name in ("nuclei", "nuclei-small")}
    assert advice["nuclei"] != advice["nuclei-small"]
    assert panel.widget.score.value == advice["nuclei"]
    panel.widget.weights.value = "nuclei-small"
    assert panel.widget.score.value == advice["nuclei-small"]


def test_bad_weights_are_told_in_a_sentence(panel, field, tmp_path):
    panel.viewer.add_image(field[0])
    (tmp_path / "w.safetensors").write_bytes(b"nothing of the kind")
    panel.widget.use_weights(str(tmp_path / "w.safetensors"))
    assert "damaged" in panel.run()
    panel.widget.use_weights(str(tmp_path / "gone.safetensors"))
    assert "No weights" in panel.run()
    panel.widget.weights.value = "nuclei"
    assert "nuclei in" in panel.run()


def test_a_missing_device_is_told_not_replaced(panel, field):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    panel.viewer.add_image(field[0])
    panel.widget.device.value = "cuda"
    assert "not available" in panel.run()
    assert panel.labels() == []


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (UserError("mend this"), "Mend this"),
        (MemoryError(), "not enough memory"),
        (KeyError("bug"), "Something went wrong \\(KeyError"),
    ],
)
def test_failures_become_sentences(panel, field, monkeypatch, error, says):
    def broken(*_):
        yield Progress(0.1, "x")
        raise error

    monkeypatch.setattr("napari_deepretina._widgets.segment.segment_job", broken)
    panel.viewer.add_image(field[0])
    assert says.replace("\\", "") in panel.run()
    assert panel.button.text() == "Run"


def test_the_form_follows_the_viewer(panel, field):
    image = panel.viewer.add_image(field[0], name="one")
    panel.viewer.add_labels(field[1], name="labels")
    panel.viewer.add_image(field[0], name="two")
    assert panel.widget.image.choices == ("one", "two")
    assert panel.widget.image.value == "two"
    panel.viewer.layers.selection.active = image
    assert panel.widget.image.value == "one"
    image.name = "renamed"
    assert "renamed" in panel.widget.image.choices
    panel.viewer.layers.remove(image)
    assert panel.widget.image.choices == ("two",)


def test_a_large_image_fills_tile_by_tile(viewer, qtbot, monkeypatch):
    """Labels appear while the run goes on, from an array of dask; Cancel keeps what is there."""
    import dask.array

    from napari_deepretina._widgets import jobs

    piece, _ = synthetic_nuclei((512, 512), 90, diameter=26, seed=1)
    image = dask.array.from_array(np.tile(piece, (2, 3)), chunks=512)
    viewer.add_image(image, name="slide", contrast_limits=(0, 255))
    _, widget = viewer.window.add_plugin_dock_widget("napari-deepretina", "Segment nuclei")
    widget.weights.value = "nuclei-small"
    widget.use_defaults({"tile": 256})
    widget.run()
    qtbot.waitUntil(lambda: "slide so far" in viewer.layers, timeout=60_000)
    layer = viewer.layers["slide so far"]
    assert widget.box.worker is not None  # still at work
    assert not layer.editable
    first = len(np.unique(layer.data))
    qtbot.waitUntil(lambda: len(np.unique(layer.data)) > first, timeout=60_000)
    widget.cancel()
    qtbot.waitUntil(lambda: widget.box.worker is None, timeout=60_000)
    assert [x.name for x in viewer.layers] == ["slide", "slide nuclei"]
    assert len(np.unique(viewer.layers["slide nuclei"].data)) >= first
    assert "cancelled at tile" in widget.box.status.text()
    done = len(list(jobs.unfinished_tiles().glob("*/*.npz")))
    assert done >= 2
    widget.run()
    qtbot.waitUntil(lambda: widget.box.worker is None, timeout=120_000)
    assert f"{done} tiles were done before" in widget.box.status.text()
    assert [x.name for x in viewer.layers] == ["slide", "slide nuclei"]
    assert not list(jobs.unfinished_tiles().glob("*/*.npz"))


def test_progress_that_comes_while_progress_is_shown_is_not_nested(viewer, qtbot, monkeypatch):
    """Napari lets Qt work while it draws its bar; a backlog of steps must not pile up on the stack."""
    from qtpy.QtWidgets import QApplication

    _, widget = viewer.window.add_plugin_dock_widget("napari-deepretina", "Segment nuclei")
    depth, deepest = 0, 0

    def slow(patch):
        nonlocal depth, deepest
        depth += 1
        deepest = max(deepest, depth)
        QApplication.processEvents()
        depth -= 1

    def job():
        for k in range(300):
            yield Progress(k / 300, "tile", patch=k)
        return "done"

    told = []
    widget.box.start("many steps", job, done=told.append, patch=slow)
    qtbot.waitUntil(lambda: widget.box.worker is None, timeout=30_000)
    assert told == ["done"]
    assert deepest == 1
