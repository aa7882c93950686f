"""Planes, ranges and whole stacks; folders without opening them."""

import csv
import json

import numpy as np
import pytest
import tifffile
from PIL import Image
from qtpy.QtWidgets import QPushButton

from napari_deepretina._widgets.own_labels import KEY, RAW
from napari_deepretina._widgets.stack_box import ALL, RANGE, THIS
from napari_deepretina.cli import main
from napari_deepretina.data.synthetic import synthetic_nuclei


@pytest.fixture(scope="module")
def movie():
    """Nuclei that drift by 2 pixels a frame; the last frame is empty."""
    image, _ = synthetic_nuclei((160, 200), 14, diameter=28, seed=3)
    dark = np.median(image)
    frames = [np.roll(image, 2 * k, axis=1) for k in range(3)]
    return np.stack([*frames, np.full_like(image, dark)])


def test_a_movie_is_tracked(panel, movie):
    layer = panel.viewer.add_image(movie, name="movie", scale=(3, 0.5, 0.5), axis_labels=("t", "y", "x"))
    stack = panel.widget.stack
    assert stack.isVisibleTo(panel.widget)
    assert stack.along.native.currentText() == "t (4 planes)"
    stack.planes.value = ALL
    stack.link.value = 0.3
    panel.viewer.dims.set_current_step(0, 2)
    panel.click()
    panel.wait()
    (labels,) = panel.labels()
    assert labels.name == "movie nuclei"
    assert labels.data.shape == movie.shape
    assert not labels.data[3].any()
    assert labels.data_to_world((1, 5, 6)) == pytest.approx(layer.data_to_world((1, 5, 6)))
    ids = [set(np.unique(labels.data[k])) - {0} for k in range(3)]
    assert len(ids[0] & ids[2]) >= 0.8 * len(ids[0])
    panel.qtbot.waitUntil(lambda: "planes" in labels.features, timeout=10_000)
    assert len(labels.features) == labels.data.max()
    assert labels.features["planes"].max() == 3
    assert "4 planes, 1 of them empty" in panel.widget.box.status.text()
    told = labels.metadata[KEY]
    assert told["settings"]["link"] == 0.3
    assert told["stack"]["axes"] == "TYX"
    # Tune and Review, plane by plane and by object
    _, tune = panel.viewer.window.add_plugin_dock_widget("napari-deepretina", "Tune")
    before = labels.data.copy()
    tune.controls["min_area"].value = 700
    assert np.array_equal(labels.data[:2], before[:2])
    assert 0 < len(np.unique(labels.data[2])) < len(np.unique(before[2]))
    panel.viewer.dims.set_current_step(0, 1)
    assert tune.controls["min_area"].value != 700
    tune.review.do("undo")
    assert np.array_equal(labels.data, before)
    tune.controls["min_area"].value = 700
    tune.for_all_planes()
    panel.qtbot.waitUntil(lambda: "All planes" in tune.box.status.text(), timeout=10_000)
    sizes = [np.unique(labels.data[k][labels.data[k] > 0], return_counts=True)[1] for k in range(3)]
    assert all(len(s) and s.min() >= 700 for s in sizes)
    tune.review.do("undo")  # all planes are one step
    tune.review.do("undo")
    assert np.array_equal(labels.data, before)
    drifting = int(max(ids[0] & ids[2]))
    tune.review.go_to(drifting)
    tune.review.do("delete")
    assert not (labels.data == drifting).any()
    tune.review.do("undo")
    # other planes keep their results when a range is segmented again
    panel.viewer.dims.set_current_step(0, 0)
    tune.review.choose(int(min(ids[0] - ids[1], default=min(ids[0]))))
    stack.planes.value = RANGE
    stack.first.value = stack.last.value = 1
    panel.widget.score.value = 0.95
    panel.run()
    assert panel.labels() == [labels]
    assert np.array_equal(labels.data[[0, 2, 3]], before[[0, 2, 3]])
    assert not set(np.unique(labels.data[1])) & set(np.unique(before)) - {0}
    tune.review.do("undo")
    assert np.array_equal(labels.data, before)


def test_each_plane_has_a_result_of_its_own(panel, movie):
    panel.viewer.add_image(movie, name="movie")
    for plane in (0, 1, 0):
        panel.viewer.dims.set_current_step(0, plane)
        panel.run()
    first, second = panel.labels()
    assert first.metadata[KEY]["index"] == [0, None, None]
    assert second.metadata[KEY]["index"] == [1, None, None]


def test_a_range_of_one_axis_at_the_place_shown_on_the_others(panel, movie):
    data = np.stack([movie[:2], movie[1:3], movie[:2][::-1]])  # t, z, y, x
    layer = panel.viewer.add_image(
        data,
        name="both",
        scale=(9, 4, 0.5, 0.5),
        translate=(0, 1, 7, 9),
        axis_labels=("t", "z", "y", "x"),
    )
    stack = panel.widget.stack
    assert list(stack.along.choices) == [0, 1]
    panel.viewer.dims.set_current_step(1, 1)
    stack.planes.value, stack.along.value = RANGE, 0
    assert (stack.first.max, stack.last.value) == (2, 2)
    stack.first.value = 1
    panel.run()
    (labels,) = panel.labels()
    assert labels.data.shape == (3, 1, *movie.shape[1:])
    assert labels.data.any(axis=(1, 2, 3)).tolist() == [False, True, True]
    assert labels.data_to_world((2, 0, 5, 6)) == pytest.approx(layer.data_to_world((2, 1, 5, 6)))
    document = labels.metadata[RAW].document
    assert sorted(document.planes) == [(1, 0), (2, 0)]
    document.retune(document.settings.model_copy(update={"min_area": 10_000}), (2, 0))
    assert not labels.data[2].any()
    document.undo()
    # one plane again: a layer of its own, the stack's stays
    stack.planes.value = THIS
    panel.run()
    assert [x.ndim for x in panel.labels()] == [4, 2]


def test_channels_are_not_planes(panel, movie):
    panel.viewer.add_image(np.stack([movie[:3]] * 2), name="c first")  # c or t, z, y, x
    box = panel.widget.stack
    assert list(box.along.choices) == [0, 1]
    panel.widget.channel.value = 1
    assert list(box.along.choices) == [1]
    panel.viewer.add_image(np.moveaxis(movie[:3], 0, -1), rgb=True, name="colour")
    panel.widget.image.value = "colour"
    assert not box.isVisibleTo(panel.widget)


def test_cancel_keeps_the_planes_that_are_done(panel, movie, qtbot):
    panel.viewer.add_image(movie[:1].repeat(30, axis=0), name="long")
    panel.widget.stack.planes.value = ALL
    panel.click()
    qtbot.waitUntil(lambda: "long so far" in panel.viewer.layers, timeout=60_000)
    panel.click()
    panel.wait()
    (labels,) = panel.labels()
    done = labels.data.any(axis=(1, 2))
    assert 1 <= done.sum() < 30
    assert not done[done.sum() + 4 :].any()  # two at a time come in any order
    assert "cancelled at plane" in panel.widget.box.status.text()


def test_a_layer_tells_how_to_repeat_it(panel, movie, tmp_path):
    path = tmp_path / "movie.tif"
    tifffile.imwrite(path, movie, metadata={"axes": "TYX"}, photometric="minisblack")
    panel.viewer.open(str(path), plugin="napari")
    panel.viewer.dims.set_current_step(0, 1)
    panel.widget.score.value = 0.7
    panel.run()
    (labels,) = panel.labels()
    (tmp_path / "layer.json").write_text(json.dumps(labels.metadata[KEY]))
    command = ["segment", "--replay", str(tmp_path / "layer.json"), "--out", str(tmp_path / "again")]
    assert main(command) == 0
    again = tifffile.imread(tmp_path / "again" / "movie.tif")
    assert np.array_equal(again[1], labels.data)
    assert not again[0].any()


def test_a_folder_is_segmented_and_gone_on_with(panel, movie, tmp_path, qtbot):
    for k in range(3):
        Image.fromarray(movie[k]).save(tmp_path / f"f{k}.png")
    (tmp_path / "broken.png").write_bytes(b"no")
    box = panel.widget.folder
    button = box.findChild(QPushButton, "run_folder")

    def run():
        qtbot.mouseClick(button, panel._left)
        qtbot.waitUntil(lambda: button.text() == "Segment all" and button.isEnabled(), timeout=60_000)
        return box.box.status.text()

    assert "Choose a folder" in run()
    box.folder.value = tmp_path
    box.formats["overlay"].value = True
    told = run()
    assert "nuclei in 3 images" in told
    assert "skipped broken.png" in told
    assert tifffile.imread(tmp_path / "f1_nuclei.tif").max() > 8
    with (tmp_path / "summary.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 3
    assert "3 of them done before" in run()
    panel.widget.score.value = 0.5
    assert "other settings" in run()
    box.anew.value = True
    assert "done before" not in run()
    box.place.value = "in a folder"
    assert "Choose the folder where" in run()
    box.out.value = tmp_path / "out"
    assert "nuclei in 3 images" in run()
    assert (tmp_path / "out" / "f1.tif").exists()
    assert not panel.viewer.layers
