"""Results belong to the image that they were made from, and planes are those that are shown."""

import json
import os
import re
import time
import zipfile

import numpy as np
import psutil
import pytest
import tifffile

from napari_deepretina._widgets import io
from napari_deepretina._widgets.document_view import view_of
from napari_deepretina._widgets.layer_samples import SampleKeeper
from napari_deepretina._widgets.own_labels import KEY, RAW
from napari_deepretina._widgets.placing import check_shown, step_of
from napari_deepretina._widgets.result_layers import Run, own_layer, show
from napari_deepretina._widgets.tools_layer import TOOLS
from napari_deepretina.data.project import Project
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.errors import UserError
from napari_deepretina.inference.segment import segment_steps
from napari_deepretina.inference.settings import SegmentSettings
from napari_deepretina.inference.steps import drain
from napari_deepretina.lock import is_at_work, own_process
from napari_deepretina.training.watch import RunWatch, find_running

IMAGE, _ = synthetic_nuclei((120, 130), 9, diameter=26, seed=3)


@pytest.fixture(scope="module")
def result(nuclei_model):
    return drain(segment_steps(IMAGE, nuclei_model, SegmentSettings(), tunable=True))


def put(viewer, image, result, **placed):
    asked = {"index": [None, None], "settings": {}, "inputs": []}
    return show(viewer, result, Run(image.name, image, placed, (), asked))


def test_another_image_of_the_same_name_has_labels_of_its_own(viewer, result):
    first = viewer.add_image(IMAGE, name="cells")
    labels = put(viewer, first, result)
    assert own_layer(viewer, first, stack=False) is labels
    labels.name, first.name = "mine", "renamed"
    assert own_layer(viewer, first, stack=False) is labels
    viewer.layers.remove(first)
    second = viewer.add_image(IMAGE[::-1], name="cells")
    assert own_layer(viewer, second, stack=False) is None
    put(viewer, second, result)
    assert labels in viewer.layers
    assert len([x for x in viewer.layers if x._type_string == "labels"]) == 2


def duplicate(viewer, layer):
    from napari.layers.base import Layer

    data, meta, kind = layer.as_layer_data_tuple()
    copy = Layer.create(data.copy(), {**meta, "name": f"{layer.name} copy"}, kind)
    return viewer.add_layer(copy)


def test_a_copy_of_labels_has_a_document_of_its_own(panel, viewer, result):
    image = viewer.add_image(IMAGE, name="cells")
    labels = put(viewer, image, result)
    _, tune = viewer.window.add_plugin_dock_widget("napari-deepretina", "Tune")
    tune.review.choose(1)
    tune.review.accept()
    copy = duplicate(viewer, labels)
    assert own_layer(viewer, image, stack=False) is labels
    mine, its = view_of(labels), view_of(copy)
    assert mine is labels.metadata[RAW]
    assert its is not mine
    assert its.document.nuclei == mine.document.nuclei
    its.document.delete(2)
    assert (labels.data == 2).any()
    assert not (copy.data == 2).any()
    assert mine.document.nuclei[1].state == "accepted"


def test_tools_lie_over_the_labels_in_hand(panel, viewer, result):
    one = put(viewer, viewer.add_image(IMAGE, name="one", scale=(0.5, 0.5)), result, scale=(0.5, 0.5))
    _, tune = viewer.window.add_plugin_dock_widget("napari-deepretina", "Tune")
    tune.review.draw("merge")
    tools = viewer.layers[TOOLS]
    assert tools.scale == pytest.approx((0.5, 0.5))
    tools.add(np.array([[1, 1], [5, 5]]), shape_type="line")
    other = viewer.add_image(IMAGE, name="two", scale=(2, 2), translate=(9, 9))
    two = put(viewer, other, result, scale=(2, 2), translate=(9, 9))
    tune.nuclei.value = two.name
    tune.review.draw("split")
    assert viewer.layers[TOOLS] is tools
    assert tools.scale == pytest.approx((2, 2))
    assert tools.translate == pytest.approx((9, 9))
    assert len(tools.data) == 0
    assert one in viewer.layers


# ---- planes ----

STACK = np.stack([np.full((40, 50), k * 10, np.uint8) for k in range(12)])


def test_only_what_is_shown_is_segmented(panel, viewer, qtbot):
    layer = viewer.add_image(STACK, name="stack")
    check_shown(viewer, layer)
    viewer.dims.transpose()
    check_shown(viewer, layer)  # the same plane, turned
    viewer.dims.transpose()
    viewer.dims.roll()
    with pytest.raises(UserError, match="roll the dimensions back"):
        check_shown(viewer, layer)
    told = panel.run()
    assert "roll the dimensions back" in told
    assert not panel.labels()
    viewer.dims.order = (0, 1, 2)
    viewer.dims.ndisplay = 3
    with pytest.raises(UserError, match="switch to 2D"):
        check_shown(viewer, layer)


def test_training_keeps_the_plane_that_is_shown(viewer, tmp_path, qtbot):
    keeper = SampleKeeper(viewer.window._qt_window, Project(tmp_path))
    image = viewer.add_image(STACK, name="stack", scale=(2.5, 0.5, 0.5), translate=(5, 0, 0))
    truth = np.zeros((12, 40, 50), np.int32)
    truth[:, 5:20, 5:20] = np.arange(1, 13)[:, None, None]
    labels = viewer.add_labels(truth, name="truth", scale=(2.5, 0.5, 0.5), translate=(5, 0, 0))
    viewer.add_image(np.zeros((3, 12, 40, 50), np.uint8), name="more axes")
    for plane in (0, 7, 11):
        viewer.dims.set_point(1, 5 + 2.5 * plane)
        steps = step_of(viewer, image), step_of(viewer, labels)
        name = keeper.keep(image, labels, steps, edited_only=False)
        assert (tifffile.imread(tmp_path / "images" / f"{name}.tif") == plane * 10).all()
        assert tifffile.imread(tmp_path / "labels" / f"{name}.tif").max() == plane + 1
    viewer.dims.set_point(1, 0)  # before the first plane
    steps = step_of(viewer, image), step_of(viewer, labels)
    name = keeper.keep(image, labels, steps, edited_only=False)
    assert (tifffile.imread(tmp_path / "images" / f"{name}.tif") == 0).all()


def test_channels_of_a_sample(viewer, tmp_path, qtbot):
    keeper = SampleKeeper(viewer.window._qt_window, Project(tmp_path))
    image = viewer.add_image(STACK[:2].transpose(1, 2, 0), name="last")  # (Y, X, C)
    labels = viewer.add_labels(np.ones((40, 50), np.int32), name="truth")
    steps = step_of(viewer, image), step_of(viewer, labels)
    name = keeper.keep(image, labels, steps, edited_only=False)
    assert tifffile.imread(tmp_path / "images" / f"{name}.tif").shape == (40, 50)


# ---- how values are read ----


def test_the_form_chooses_how_values_are_read(panel, viewer):
    viewer.add_image(np.dstack([np.zeros_like(IMAGE), np.zeros_like(IMAGE), IMAGE]), name="blue", rgb=True)
    told = panel.run()
    assert "only blue is looked at" in told
    (labels,) = panel.labels()
    assert labels.data.max() > 5
    grey = viewer.add_image(IMAGE.astype(np.uint16) * 9 + 300, name="grey", contrast_limits=(300, 2500))
    widget = panel.widget
    widget.image.value = "grey"
    widget.intensity.value = "as displayed"
    assert widget.settings()["intensity"] == "300.0:2500.0"
    assert "intensities 300 to 2500 as asked for" in panel.run()
    grey.contrast_limits = (0, 65535)
    widget.intensity.value = "1 to 99.8 % of all values"
    widget.invert.value = True
    assert (widget.settings()["intensity"], widget.settings()["invert"]) == ("plain", True)


# ---- saving ----


def test_no_export_replaces_the_file_of_an_open_image(viewer, tmp_path, result):
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, IMAGE)
    (image,) = viewer.open(str(path), plugin="napari")
    labels = put(viewer, image, result)
    data, meta, _ = labels.as_layer_data_tuple()
    before = path.read_bytes()
    (tmp_path / "link.json").symlink_to(path)
    for write, target in (
        (io.write_labels_tiff, path), (io.write_labels_rle, path), (io.write_labels_rois, path),
        (io.write_labels_table, path), (io.write_labels_coco, tmp_path / "link.json"),
        (io.write_labels_polygons, path),
    ):  # fmt: skip
        with pytest.raises(UserError, match="is an input"):
            write(str(target), data, meta)
    assert path.read_bytes() == before
    io.write_labels_coco(str(tmp_path / "c.json"), data, meta)
    content = json.loads((tmp_path / "c.json").read_text())
    assert content["images"][0]["file_name"] == "cells"  # the test named no file in the layer's metadata
    assert len({a["score"] for a in content["annotations"]}) > 3
    meta["metadata"][KEY]["inputs"] = [str(path)]
    io.write_labels_coco(str(tmp_path / "c.json"), data, meta)
    assert json.loads((tmp_path / "c.json").read_text())["images"][0]["file_name"] == "cells.tif"
    edited = data.copy()
    edited[:6, :6] = 500
    io.write_labels_coco(str(tmp_path / "c.json"), edited, meta)
    drawn = [a for a in json.loads((tmp_path / "c.json").read_text())["annotations"] if a["id"] == 500]
    assert len(drawn) == 1
    assert "score" not in drawn[0]
    io.write_labels_table(str(tmp_path / "t_table.csv"), edited, meta)
    assert "\ncells,500," in (tmp_path / "t_table.csv").read_text()


def test_a_renamed_result_stays_in_hand(panel, viewer, result):
    labels = put(viewer, viewer.add_image(IMAGE, name="cells"), result)
    other = put(viewer, viewer.add_image(IMAGE, name="others"), result)
    _, tune = viewer.window.add_plugin_dock_widget("napari-deepretina", "Tune")
    tune.nuclei.value = labels.name
    labels.name = "my best cells"
    assert tune.nuclei.value == "my best cells"
    assert tune.review.view is view_of(labels)
    tune.controls["min_area"].value = 10_000
    assert labels.data.max() == 0
    assert other.data.max() > 0


def test_the_window_and_the_command_line_write_the_same_bytes(panel, viewer, tmp_path):
    from napari_deepretina._widgets.exporting import export
    from napari_deepretina.cli import main

    path = tmp_path / "cells.tif"
    told = {"axes": "YX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    tifffile.imwrite(path, IMAGE, ome=True, metadata=told)
    (image,) = viewer.open(str(path), plugin="napari")
    image.scale, image.units = (0.5, 0.5), ("um", "um")
    panel.run()
    (labels,) = panel.labels()
    formats = {
        "tif": "labels",
        "json": "coco",
        "zip": "rois",
        "_table.csv": "features",
        "_polygons.json": "polygons",
    }
    out = tmp_path / "out"
    command = [
        "segment",
        str(path),
        "--out",
        str(out),
        "--device",
        "cpu",
        "--format",
        ",".join(formats.values()),
    ]
    assert main(command) == 0
    theirs = {
        "tif": "cells.tif", "json": "instances.json", "zip": "cells_rois.zip", "_table.csv": "features.csv",
        "_polygons.json": "polygons.json",
    }  # fmt: skip
    for ending, name in theirs.items():
        mine = tmp_path / f"mine{'' if ending.startswith('_') else '.'}{ending}"
        export(labels, str(mine))
        if ending == "zip":  # whose members carry the time
            assert zip_content(mine) == zip_content(out / name)
        else:
            assert without_uuid(mine) == without_uuid(out / name), name


def without_uuid(path):
    """A file's bytes but for the number that OME gives each file."""
    return re.sub(rb"urn:uuid:[0-9a-f-]{36}", b"", path.read_bytes())


def zip_content(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


# ---- processes ----


def test_a_process_is_told_from_a_later_one_of_its_number(tmp_path):
    own = own_process()
    assert is_at_work(own)
    told = json.loads(own)
    assert not is_at_work(json.dumps({**told, "started": told["started"] - 60}))
    assert not is_at_work(json.dumps({**told, "host": "elsewhere"}))
    assert not is_at_work(str(os.getpid()))
    for torn in ("", "{", "[]", "null", '{"pid": "x"}'):
        assert not is_at_work(torn)


def test_a_stale_number_does_not_lock_train(tmp_path, monkeypatch):
    """Any process may have the number by now; asking it must send it nothing."""
    sent = []
    monkeypatch.setattr(os, "kill", lambda *a: sent.append(a))
    folder = tmp_path / "run"
    folder.mkdir()
    start = {"event": "start", "step": 0, "total": 10, "device": "cpu"}
    (folder / "events.jsonl").write_text(json.dumps(start) + "\n")
    stale = {"pid": os.getpid(), "started": psutil.boot_time(), "host": json.loads(own_process())["host"]}
    for told in (json.dumps(stale), str(os.getpid())):
        (folder / "pid").write_text(told)
        watch = RunWatch(folder)
        watch.poll()
        assert watch.status == "lost"
        assert find_running(tmp_path) == []
    (folder / "pid").write_text(own_process())
    assert [w.folder for w in find_running(tmp_path)] == [folder]
    assert sent == []
    assert time.time() > json.loads(own_process())["started"]


@pytest.mark.parametrize("beside", [False, True], ids=["into the same folder", "beside"])
def test_many_images_leaves_the_images_alone(tmp_path, tiny_weights, beside):
    """The window's default options, and results into the folder of the images."""
    from napari_deepretina._widgets.folder_box import folder_job
    from napari_deepretina._widgets.folder_steps import Asked

    for k in range(2):
        tifffile.imwrite(tmp_path / f"im{k}.tif", IMAGE[:64, : 70 + k])
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    values = {"weights": str(tiny_weights), "device": "cpu", "score": 0.9}
    asked = Asked(tmp_path, tmp_path, ["labels", "overlay"], beside, values, axes="")
    for standing in ("resume", "overwrite", "resume"):
        result = drain(folder_job(asked, standing))
        assert sorted(result.done) == ["im0", "im1"]
        assert {name: (tmp_path / name).read_bytes() for name in before} == before
        assert (tmp_path / "im1_nuclei.tif").exists()
