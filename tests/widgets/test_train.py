"""Training driven from the viewer as a person does it: a real child process on synthetic data."""

import json
import os
import signal

import numpy as np
import pytest
import tifffile
from qtpy.QtCore import QEvent, Qt
from qtpy.QtWidgets import QFileDialog, QPushButton

from napari_deepretina._widgets.document_view import DocumentView
from napari_deepretina._widgets.own_labels import KEY, RAW
from napari_deepretina.data.project import Project
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.document import Document, Nucleus
from napari_deepretina.errors import UserError
from napari_deepretina.lock import own_process
from napari_deepretina.model.runs import runs_folder
from napari_deepretina.model.weights import user_folder
from napari_deepretina.postprocess import PostprocessSettings
from napari_deepretina.training.watch import RunWatch, checked_name, find_running

SMALL = (
    "main.crop=64 main.batch_size=1 main.regions_per_image=16 log_every=1 validate_every=3 workers=0 "
    "checkpoint_every=2 precision=32-true"
)


class Trainer:
    """The Train widget with a person's hands."""

    def __init__(self, viewer, qtbot):
        self.viewer, self.qtbot = viewer, qtbot
        self.dock, self.widget = viewer.window.add_plugin_dock_widget("napari-deepretina", "Train")

    def press(self, name):
        self.qtbot.mouseClick(self.widget.findChild(QPushButton, name), Qt.MouseButton.LeftButton)

    def told(self):
        return self.widget.status.text()

    def wait(self, condition, seconds=120):
        self.qtbot.waitUntil(lambda: bool(condition()), timeout=seconds * 1000)


@pytest.fixture
def trainer(viewer, qtbot, monkeypatch):
    trainer = Trainer(viewer, qtbot)
    # nobody is there to answer when the viewer closes
    monkeypatch.setattr(trainer.widget, "_ask_about_run", lambda: "leave")
    yield trainer
    run = trainer.widget.run
    if run is not None and run.process is not None and run.process.poll() is None:
        run.process.kill()
        run.process.wait()


@pytest.fixture
def annotated(tmp_path):
    for i in range(4):
        image, labels = synthetic_nuclei((64, 64), 4, diameter=18, seed=i)
        for kind, array in (("images", image), ("labels", labels)):
            (tmp_path / "set" / kind).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(tmp_path / "set" / kind / f"{i}.tif", array)
    return tmp_path / "set"


def begin(trainer, annotated, tiny_weights, name, steps):
    user_folder().mkdir(parents=True, exist_ok=True)
    (user_folder() / "tiny.safetensors").write_bytes(tiny_weights.read_bytes())
    widget = trainer.widget
    widget.start_from.reset_choices()
    widget.start_from.value = "tiny"
    widget.name.value = name
    widget.options.value = f"{SMALL} main.steps={steps}"
    widget.add_data(str(annotated))
    trainer.press("start")


@pytest.mark.slow
def test_a_person_trains_pauses_stops_resumes_and_segments(trainer, annotated, tiny_weights, qtbot):
    widget = trainer.widget
    begin(trainer, annotated, tiny_weights, "mine", 4000)
    assert not widget.start_button.isEnabled()
    trainer.wait(lambda: len(widget.run.curves["train"]) > 2 and widget.run.curves["score"])
    assert "images/s on cpu" in trainer.told()
    assert "min left" in trainer.told()
    names = [x.name for x in trainer.viewer.layers]
    assert names == ["training sample", "training sample nuclei"]
    trainer.press("pause")
    trainer.wait(lambda: widget.pause_button.text() == "Go on")
    trainer.press("pause")
    trainer.wait(lambda: widget.pause_button.text() == "Pause")
    # another session finds the run at work
    assert [r.folder.name for r in find_running()] == ["mine"]
    trainer.press("stop")
    trainer.wait(lambda: "Segment finds the weights as 'mine'" in trainer.told())
    assert widget.run.status == "stopped"
    stopped_at = widget.run.step
    widget.data.clear()
    widget.options.value = ""
    widget.open_run(runs_folder() / "mine")
    assert f"mine: stopped at step {stopped_at} of 4000" in trainer.told()
    assert widget.chosen_data() == [str(annotated)]
    widget.options.value = widget.options.value.replace("main.steps=4000", f"main.steps={stopped_at + 5}")
    trainer.press("resume")
    trainer.wait(lambda: trainer.told().startswith("The run is done"))
    assert widget.run.status == "finished"
    assert widget.run.step == stopped_at + 5
    _, panel = trainer.viewer.window.add_plugin_dock_widget("napari-deepretina", "Segment nuclei")
    assert "mine" in panel.weights.choices
    trainer.viewer.add_image(synthetic_nuclei((64, 64), 4)[0], name="new")
    panel.image.value = "new"
    panel.weights.value = "mine"
    panel.run()
    qtbot.waitUntil(lambda: "nuclei in" in panel.box.status.text(), timeout=60_000)


@pytest.mark.slow
def test_a_killed_run_is_told_with_the_place_of_its_log(trainer, annotated, tiny_weights):
    begin(trainer, annotated, tiny_weights, "killed", 4000)
    run = trainer.widget.run
    trainer.wait(lambda: run.curves["train"])
    os.kill(run.process.pid, signal.SIGKILL)
    trainer.wait(lambda: "log.txt" in trainer.told())
    assert run.status == "lost"
    (user_folder() / "tiny.safetensors").unlink()


def test_what_cannot_work_is_told(trainer, tmp_path):
    trainer.press("start")
    assert "Add annotated images first" in trainer.told()
    trainer.press("add_layers")
    assert "Choose an image layer" in trainer.told()
    with pytest.raises(UserError, match="not the folder of a run"):
        trainer.widget.open_run(tmp_path)
    trainer.press("remove_sample")
    assert "Choose a sample" in trainer.told()
    for name, reason in (
        ("../out", "no name for a run"),
        ("a\nb", "no name"),
        ("nuclei", "stands for other"),
    ):
        with pytest.raises(UserError, match=reason):
            checked_name(name)
    trainer.widget.add_data(str(tmp_path / "gone@3"))
    trainer.widget.name.value = "fails"
    for button in ("start", "forecast"):
        trainer.press(button)
        assert "gone does not exist" in trainer.told()
    assert not (runs_folder() / "fails").exists()
    (tmp_path / "gone").mkdir()
    trainer.press("start")
    trainer.wait(lambda: "holds no annotated images" in trainer.told())
    assert trainer.widget.name.value != "fails"  # a fresh one
    trainer.widget.name.value = "fails"
    trainer.press("start")
    assert "There is a run 'fails' already" in trainer.told()


def test_layers_become_samples_whole_or_where_they_were_edited(trainer):
    image, labels = synthetic_nuclei((120, 150), 12, diameter=22, kind="tissue")
    trainer.viewer.add_image(image, name="slide 1", rgb=True)
    stack = trainer.viewer.add_image(np.stack([np.zeros((120, 150)), image[..., 0]]), name="stack")
    layer = trainer.viewer.add_labels(labels, name="truth")
    widget = trainer.widget
    widget.image.value, widget.labels.value = "slide 1", "truth"
    trainer.press("add_layers")
    assert "Kept as slide_1; 1 sample in" in trainer.told()
    assert widget.samples.list.item(0).text().startswith("slide_1: 12 nuclei, 150×120 px")
    assert widget.chosen_data() == [str(widget.project.folder)]
    widget.part.value = "edited regions"
    trainer.press("add_layers")
    assert "Only labels that Segment made" in trainer.told()
    edited = labels.copy()
    found = {i: Nucleus("found", "network", 0.9, 1) for i in range(1, labels.max() + 1)}
    document = Document(labels, PostprocessSettings(), {}, nuclei=found)
    layer.metadata[RAW] = DocumentView(layer, document, document.settings)
    edited[10:20, 30:40] = 99
    layer.data = edited
    trainer.press("add_layers")
    assert "Kept as slide_1_2" in trainer.told()
    folder = widget.project.folder
    # the new nucleus, those that it took pixels from, and a margin
    touched = np.argwhere(np.isin(edited, [99, *np.unique(labels[10:20, 30:40][labels[10:20, 30:40] > 0])]))
    (y0, x0), (y1, x1) = np.maximum(touched.min(axis=0) - 16, 0), touched.max(axis=0) + 17
    assert tifffile.imread(folder / "images" / "slide_1_2.tif").shape == (min(y1, 120) - y0, x1 - x0, 3)
    assert np.array_equal(tifffile.imread(folder / "labels" / "slide_1_2.tif"), edited[y0:y1, x0:x1])
    widget.part.value = "whole frame"
    widget.image.value = "stack"
    made = {"image": "stack", "image_id": str(stack.unique_id), "index": [1, None, None], "settings": {}}
    layer.metadata[KEY] = made
    trainer.press("add_layers")
    assert np.array_equal(tifffile.imread(folder / "images" / "stack.tif"), stack.data[1])
    assert sorted(widget.project.samples()) == ["slide_1", "slide_1_2", "stack"]
    widget.samples.list.setCurrentRow(2)
    trainer.press("show_sample")
    assert np.array_equal(trainer.viewer.layers["stack labels"].data, edited)
    trainer.press("remove_sample")
    assert sorted(widget.project.samples()) == ["slide_1", "slide_1_2"]
    assert widget.samples.list.count() == 2
    assert sorted(p.name for p in (folder / "removed").iterdir()) == ["stack.images.tif", "stack.labels.tif"]
    assert not (folder / "labels" / "stack.tif").exists()


def test_what_a_run_shows_is_never_taken_for_truth(trainer, tmp_path):
    image, labels = synthetic_nuclei((64, 64), 4, diameter=18)
    (tmp_path / "sample").mkdir()
    tifffile.imwrite(tmp_path / "sample" / "image.tif", image)
    tifffile.imwrite(tmp_path / "sample" / "labels.tif", labels)
    own = trainer.viewer.add_labels(labels.copy(), name="training sample nuclei")  # of that very name
    trainer.widget._run_layers.show(tmp_path)
    tifffile.imwrite(tmp_path / "sample" / "labels.tif", labels * 0 + 1)
    trainer.widget._run_layers.show(tmp_path)
    assert np.array_equal(own.data, labels)
    assert len(trainer.viewer.layers) == 3
    assert list(trainer.widget.labels.choices) == ["training sample nuclei"]
    assert list(trainer.widget.image.choices) == []
    trainer.viewer.layers.selection.active = trainer.viewer.layers[-1]
    assert trainer.widget.labels.value == "training sample nuclei"


def test_a_run_of_the_command_line_is_opened_and_forecast(trainer, annotated, tiny_weights, tmp_path):
    from napari_deepretina.cli import main

    out = tmp_path / "elsewhere"
    words = [w for c in f"{SMALL} main.steps=2".split() for w in ("--set", c)]
    start = ["train", "fine-tune", "--data", str(annotated), "--weights", str(tiny_weights)]
    assert main([*start, "--out", str(out), "--device", "cpu", *words]) == 0
    widget = trainer.widget
    widget.open_run(out)
    assert "elsewhere: finished at step 2 of 2" in trainer.told()
    assert widget.chosen_data() == [str(annotated)]
    assert "main.steps=2" in widget.options.value
    assert widget.run.curves["train"]
    assert not (user_folder() / "elsewhere.safetensors").exists()  # looking publishes nothing
    assert (
        str(out / "weights.safetensors") in widget.start_from.choices
        or widget.start_from.reset_choices() is None
    )
    assert str(out / "weights.safetensors") in widget.start_from.choices
    widget.start_from.value = str(out / "weights.safetensors")
    trainer.press("forecast")
    trainer.wait(lambda: "Forecast: in all" in trainer.told())
    assert "2 steps of 1 crops of 64²" in widget.log.toPlainText()


def test_kept_samples_follow_the_brush_and_are_never_doubled(trainer, monkeypatch, qtbot):
    image, labels = synthetic_nuclei((90, 90), 8, diameter=20, seed=2)
    trainer.viewer.add_image(image, name="other")
    trainer.viewer.add_image(image, name="field")
    layer = trainer.viewer.add_labels(labels, name="mine", metadata={KEY: {"image": "field"}})
    widget = trainer.widget
    assert (widget.image.value, widget.labels.value) == ("field", "mine")  # as it was selected
    trainer.press("add_layers")
    names = set(widget.project.samples())
    path = widget.project.folder / "labels" / f"{next(n for n in names if n.startswith('field'))}.tif"
    widget._keeper._timer.setInterval(50)
    layer.paint((50, 50), 77)
    qtbot.waitUntil(lambda: "Edits kept in field" in trainer.told(), timeout=10_000)
    assert np.array_equal(tifffile.imread(path), layer.data)
    assert (tifffile.imread(path) == 77).any()
    trainer.press("add_layers")
    assert set(widget.project.samples()) == names

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", full)
        layer.paint((20, 20), 78)
        qtbot.waitUntil(lambda: "No space left" in trainer.told(), timeout=10_000)
    assert not (tifffile.imread(path) == 78).any()


def test_a_smaller_frame_replaces_the_sample_of_a_larger_one(tmp_path):
    project = Project(tmp_path / "p")
    labels = np.zeros((60, 60), np.int32)
    labels[20:30, 20:30] = 1
    first = project.add("a", labels, labels)
    second = project.add("a", labels, labels, only=labels > 0, margin=2, replace=first)
    assert second != first
    assert list(project.samples()) == [second]
    assert [p.name for p in (tmp_path / "p" / "images").iterdir()] == [f"{second}.tif"]
    assert tifffile.imread(tmp_path / "p" / "labels" / f"{second}.tif").shape == (14, 14)
    assert project.add("a", labels, labels, only=labels > 0, margin=2, replace=second) == second


def test_starting_points_are_names_runs_and_files(trainer, tmp_path, tiny_weights, monkeypatch):
    widget = trainer.widget
    run = runs_folder() / "half"
    run.mkdir(parents=True)
    (run / "weights.safetensors").write_bytes(tiny_weights.read_bytes())
    (run / "events.jsonl").touch()
    widget.start_from.reset_choices()
    assert str(run / "weights.safetensors") in widget.start_from.choices
    answers = [(str(tiny_weights), ""), ("", "")]
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: answers.pop(0))
    widget.start_from.value = "a file…"
    assert widget.start_from.value == str(tiny_weights)
    widget.start_from.value = "a file…"  # and thought better of it
    assert widget.start_from.value == "bundled"
    for file in run.iterdir():
        file.unlink()
    run.rmdir()


def test_a_mix_of_sets_with_weights(trainer, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    widget = trainer.widget
    for name in ("a", "b", "a"):
        widget.add_data(str(tmp_path / name))
    assert [widget.data.item(i).text() for i in range(widget.data.count())] == ["~/a", "~/b"]
    widget.data.item(1).setText("~/b@3")
    assert widget.chosen_data() == [str(tmp_path / "a"), f"{tmp_path / 'b'}@3"]


def test_projects_survive_and_tell_what_is_wrong(tmp_path, monkeypatch):
    project = Project(tmp_path / "p")
    labels = np.zeros((9, 9), np.int32)
    with pytest.raises(UserError, match="nothing to learn from"):
        project.add("a", labels, labels)
    labels[2:5, 2:5] = 1
    project.add("a", labels, labels)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", full)
        with pytest.raises(UserError, match="No space left"):
            project.add("b", labels, labels)
    assert list(project.samples()) == ["a"]
    with pytest.raises(UserError, match="differ in size"):
        project.add("c", labels, labels[:3])
    (tmp_path / "p" / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest.json is not valid JSON"):
        project.samples()
    (tmp_path / "p" / "manifest.json").write_text('{"samples": {"a": 3}}')
    with pytest.raises(UserError, match=r"manifest.json is damaged: samples.a"):
        project.samples()


@pytest.mark.parametrize("answer", ["cancel", "stop", "leave"])
def test_closing_napari_asks_about_a_run(trainer, tmp_path, monkeypatch, answer):
    run = RunWatch(tmp_path)
    run.status = "running"
    (tmp_path / "pid").write_text(own_process())
    trainer.widget.attach(run)
    monkeypatch.setattr(trainer.widget, "_ask_about_run", lambda: answer)
    kept = trainer.widget.eventFilter(trainer.widget.window(), QEvent(QEvent.Type.Close))
    assert kept == (answer == "cancel")
    assert (tmp_path / "stop").exists() == (answer == "stop")
    run.status = "finished"
    trainer.widget._timer.stop()


def test_a_run_at_work_is_found_again(viewer):
    folder = runs_folder() / "old"
    folder.mkdir(parents=True)
    (folder / "pid").write_text(own_process())
    start = {"event": "start", "step": 0, "total": 10, "device": "cpu"}
    (folder / "events.jsonl").write_text(json.dumps(start) + "\n" + '{"event": "tra')
    _, widget = viewer.window.add_plugin_dock_widget("napari-deepretina", "Train")
    assert widget.run.folder == folder
    assert widget.run.status == "running"
    assert "Found the run old" in widget.status.text()
    widget._timer.stop()
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
