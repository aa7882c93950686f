"""Stepping through a folder: results, review state and progress of each image are kept."""

import csv
import json

import numpy as np
import pytest
import tifffile
from qtpy.QtWidgets import QPushButton

from napari_deepretina._widgets.document_view import view_of
from napari_deepretina.cli import main
from napari_deepretina.data.synthetic import synthetic_nuclei

SMALL = ("--weights", "nuclei-small")


@pytest.fixture(scope="module")
def images():
    return [synthetic_nuclei((150, 160), 12, diameter=26, seed=k)[0] for k in range(3)]


@pytest.fixture
def folder(tmp_path, images):
    for k, image in enumerate(images):
        tifffile.imwrite(tmp_path / f"f{k}.tif", image)
    return tmp_path


class Steps:
    def __init__(self, panel, folder):
        self.panel, self.steps = panel, panel.widget.folder.steps
        panel.widget.weights.value = "nuclei-small"
        panel.widget.folder.folder.value = folder

    def press(self, name):
        self.panel.qtbot.mouseClick(self.steps.findChild(QPushButton, name), self.panel._left)
        box, single = self.panel.widget.folder.box, self.panel.widget.box
        self.panel.qtbot.waitUntil(lambda: box.worker is None and single.worker is None, timeout=60_000)
        return self.steps.where.text()

    @property
    def labels(self):
        return next(x for x in self.panel.viewer.layers if x._type_string == "labels")


def summary(folder):
    with (folder / "summary.csv").open(newline="") as file:
        return {row["image"]: row for row in csv.DictReader(file)}


def test_a_folder_is_corrected_image_by_image(panel, folder, capsys):
    steps = Steps(panel, folder)
    assert "Image 1 of 3: f0" in steps.press("next_image")
    view = view_of(steps.labels)
    assert view.document.planes  # segmented here, so the sliders work
    ids = view.document.present.tolist()
    view.document.delete(ids[0])
    view.document.accept(ids[1])
    count = len(ids) - 1
    assert "Image 2 of 3: f1 · 1 of 3 reviewed" in steps.press("image_done")
    assert [x.name for x in panel.viewer.layers if x._type_string == "image"] == ["f1"]
    rows = summary(folder)
    assert (rows["f0"]["nuclei"], rows["f0"]["nuclei_reviewed"], rows["f0"]["reviewed"]) == (
        str(count),
        "1",
        "yes",
    )
    written = tifffile.imread(folder / "f0_nuclei.tif")
    assert set(np.unique(written)) - {0} == set(ids[1:])
    # the image that was not marked keeps its nuclei, but is not reviewed
    assert "Image 3 of 3" in steps.press("next_image")
    assert summary(folder)["f1"]["reviewed"] == "no"
    assert "last image" in (steps.press("next_image"), panel.widget.folder.box.status.text())[1]
    # back to the first one: states, ids and sliders are as they were left
    steps.press("previous_image")
    assert "Image 1 of 3: f0 (reviewed)" in steps.press("previous_image")
    document = view_of(steps.labels).document
    assert document.nuclei[ids[0]].state == "deleted"
    assert document.nuclei[ids[1]].state == "accepted"
    assert document.planes
    assert np.array_equal(steps.labels.data, written)
    steps.press("next_image")
    told = json.loads((folder / "run.json").read_text())["images"]
    assert told["f0"]["review"] == {"nuclei": 1, "of": count, "done": True, "changed": True}
    # neither going on nor beginning anew touches what a person corrected
    for how in ("--resume", "--overwrite"):
        assert main(["segment", str(folder), "--beside", how, "--score", "0.5", *SMALL]) in (0, 2)
        assert np.array_equal(tifffile.imread(folder / "f0_nuclei.tif"), written)
    assert summary(folder)["f0"]["reviewed"] == "yes"
    assert summary(folder)["f2"]["reviewed"] == "no"
    told = json.loads((folder / "run.json").read_text())["images"]
    assert "review" in told["f0"]
    assert "review" not in told["f2"]  # it was only looked at, so it was done anew
    panel.widget.score.value = 0.5
    steps.press("previous_image")
    steps.press("next_image")
    for name in ("next_image", "next_image"):
        steps.press(name)
    shown = steps.labels.data
    name = next(x.name for x in panel.viewer.layers if x._type_string == "image")
    assert np.array_equal(shown, tifffile.imread(folder / f"{name}_nuclei.tif"))


def test_results_of_a_run_are_corrected(panel, folder):
    assert main(["segment", str(folder), "--beside", "--format", "labels,features,coco", *SMALL]) == 0
    before = tifffile.imread(folder / "f0_nuclei.tif")
    steps = Steps(panel, folder)
    for kind in ("features", "coco"):
        panel.widget.folder.formats[kind].value = True
    steps.press("next_image")
    assert np.array_equal(steps.labels.data, before)
    document = view_of(steps.labels).document
    scores = document.known()["score"]
    assert np.isfinite(scores).all()
    gone = int(document.present[2])
    document.delete(gone)
    panel.viewer.bind_key  # noqa: B018
    steps.press("next_image")
    with (folder / "features.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    of_first = [int(r["index"]) for r in rows if r["image"] == "f0"]
    assert gone not in of_first
    assert len(of_first) == len(scores) - 1
    assert {r["image"] for r in rows} == {"f0", "f1", "f2"}
    labels = {a["label"] for a in json.loads((folder / "instances.json").read_text())["annotations"]}
    assert labels


def test_without_a_folder_a_sentence_says_what_to_do(panel):
    steps = panel.widget.folder.steps
    steps.do("next")
    assert panel.widget.folder.box.status.text() == "Choose a folder with images first"
    steps.do("done")
    assert "folder" in panel.widget.folder.box.status.text()


def test_work_that_goes_on_while_it_is_written_is_not_lost(panel, folder, monkeypatch):
    from napari_deepretina._widgets import folder_steps

    steps = Steps(panel, folder)
    steps.press("next_image")
    document = view_of(steps.labels).document
    document.accept(int(document.present[0]))
    real = folder_steps.step_job

    def slow(*args):
        yield from iter(())
        result = yield from real(*args)
        document.delete(int(document.present[1]))  # the hand was quicker than the disk
        return result

    monkeypatch.setattr(folder_steps, "step_job", slow)
    assert "Image 1 of 3" in steps.press("next_image")
    assert "go on once more" in panel.widget.folder.box.status.text()
    monkeypatch.setattr(folder_steps, "step_job", real)
    assert "Image 2 of 3" in steps.press("next_image")
    assert summary(folder)["f0"]["nuclei"] == str(len(document.present))
