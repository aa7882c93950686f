import csv
import json
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import roifile
import tifffile
from npe2 import PluginManifest

import napari_deepretina
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.instances import relabel_sequential

MANIFEST = Path(napari_deepretina.__file__).parent / "napari.yaml"


def test_the_manifest_is_valid_and_every_command_exists():
    manifest = PluginManifest.from_file(MANIFEST)
    manifest.validate_imports()
    (entry,) = [e for e in entry_points(group="napari.manifest") if e.name == manifest.name]
    assert entry.value == "napari_deepretina:napari.yaml"


def menu_titles(menu):
    """Texts of a menu and of the menus under it."""
    found = []
    menu.aboutToShow.emit()
    for action in menu.actions():
        if action.menu():
            found += menu_titles(action.menu())
        elif action.text():
            found.append(action.text().replace("&", ""))
    return found


def test_the_widget_is_in_the_plugins_menu(viewer):
    assert any("Segment nuclei" in t for t in menu_titles(viewer.window.plugins_menu))


def test_the_widget_is_in_the_segment_menu_and_commands_in_the_palette(viewer):
    from napari._app_model import get_app_model

    app = get_app_model()
    items = [i.command.title for i in app.menus.get_menu("napari/layers/segment") if hasattr(i, "command")]
    assert any("Segment nuclei" in t for t in items)
    assert "napari-deepretina.segment_now" in app.commands


def test_the_command_opens_the_panel_and_runs(viewer, qtbot):
    from napari_deepretina._widgets.commands import segment_now

    viewer.add_image(synthetic_nuclei((128, 128), 6, diameter=30)[0])
    segment_now(viewer)
    qtbot.waitUntil(lambda: any(x._type_string == "labels" for x in viewer.layers), timeout=60_000)


@pytest.mark.parametrize("key", ["fluorescence", "tissue", "immunohistochemistry"])
def test_samples_open(viewer, key):
    viewer.open_sample("napari-deepretina", key)
    assert viewer.layers[0].name == key


@pytest.mark.parametrize(("suffix", "writer"), [(".csv", "rle"), (".json", "coco"), (".zip", "rois")])
def test_labels_are_saved_by_suffix(viewer, tmp_path, suffix, writer):
    _, labels = synthetic_nuclei((64, 96), 6)
    layer = viewer.add_labels(labels, name="mine")
    path = tmp_path / f"x{suffix}"
    assert layer.save(str(path), plugin="napari-deepretina") == [str(path)]
    assert path.stat().st_size > 50
    if writer == "rle":
        viewer.layers.clear()
        (read,) = viewer.open(str(path), plugin="napari-deepretina")
        assert np.array_equal(read.data, relabel_sequential(labels))
        assert read.name == "mine"


def test_coco_json_comes_back_as_labels_with_scores(viewer, tmp_path):
    _, labels = synthetic_nuclei((64, 96), 6)
    path = tmp_path / "x.json"
    viewer.add_labels(labels, name="mine").save(str(path), plugin="napari-deepretina")
    viewer.layers.clear()
    (read,) = viewer.open(str(path), plugin="napari-deepretina")
    assert np.array_equal(read.data, relabel_sequential(labels))
    assert read.name == "mine"
    assert read.features["score"].tolist() == [1.0] * labels.max()
    (tmp_path / "other.json").write_text('{"a": 1}')
    (tmp_path / "broken.json").write_text("{")
    from napari_deepretina._widgets.io import get_reader

    assert get_reader(str(tmp_path / "other.json")) is get_reader(str(tmp_path / "broken.json")) is None


def test_tables_polygons_and_scaled_tiff_are_written(viewer, tmp_path):
    from napari_deepretina._widgets import io

    labels = np.zeros((20, 30), np.int32)
    labels[2:6, 3:9], labels[10:15, 10:12] = 2, 7
    features = {"label": [0, 2, 7], "score": [np.nan, 0.5, 0.75]}
    layer = viewer.add_labels(labels, features=features, scale=(0.5, 0.25), units=("um", "um"))
    data, meta, _ = layer.as_layer_data_tuple()
    io.write_labels_table(str(tmp_path / "t.csv"), data, meta)
    lines = (tmp_path / "t.csv").read_text().splitlines()
    rows = list(csv.DictReader(lines))
    assert lines[0].startswith("image,index,state,source,score,votes,class,area,x0,y0,x1,y1,y,x,perimeter,")
    for row, (label, score, area) in zip(rows, ((2, 0.5, 24), (7, 0.75, 10)), strict=True):
        assert (int(row["index"]), float(row["score"]), int(row["area"])) == (label, score, area)
        assert float(row["area_µm²"]) == pytest.approx(area * 0.5 * 0.25)
        assert row["state"] == "drawn"
    assert [rows[0][k] for k in ("x0", "y0", "x1", "y1")] == ["3", "2", "9", "6"]
    io.write_labels_polygons(str(tmp_path / "p.json"), data, meta)
    (layer_data,) = io.read_coco_layers(str(tmp_path / "p.json"))
    assert ((layer_data[0] > 0) != (labels > 0)).sum() <= 8
    io.write_labels_tiff(str(tmp_path / "l.tif"), data, meta)
    with tifffile.TiffFile(tmp_path / "l.tif") as file:
        assert 'PhysicalSizeY="0.5"' in file.ome_metadata
        assert np.array_equal(file.asarray(), labels)


def test_a_csv_without_sizes_takes_that_of_the_open_image(viewer, tmp_path):
    path = tmp_path / "submission.csv"
    path.write_text("ImageId,EncodedPixels\ncells,1 2 8 1\n")
    with pytest.raises(ValueError, match="open the image of that name first"):
        viewer.open(str(path), plugin="napari-deepretina")
    viewer.add_image(np.zeros((6, 5)), name="cells")
    (layer,) = viewer.open(str(path), plugin="napari-deepretina")
    assert layer.data.shape == (6, 5)
    assert (layer.data[0, 0], layer.data[1, 0], layer.data[1, 1]) == (1, 1, 1)


def test_other_csv_files_are_left_to_others(tmp_path):
    from napari_deepretina._widgets.io import get_reader

    (tmp_path / "points.csv").write_text("index,axis-0,axis-1\n0,1,2\n")
    assert get_reader(str(tmp_path / "points.csv")) is None
    assert get_reader("image.tif") is None


def test_stacks_of_labels_are_written_plane_by_plane(viewer, tmp_path):
    from napari_deepretina._widgets import io
    from napari_deepretina.errors import UserError

    stack = np.zeros((3, 40, 50), np.int32)
    stack[0, 5:12, 5:14], stack[1, 6:13, 5:14], stack[1, 20:30, 30:40] = 4, 4, 9
    layer = viewer.add_labels(stack, name="movie", features={"index": [4, 9], "score": [0.5, 0.75]})
    data, meta, _ = layer.as_layer_data_tuple()
    io.write_labels_tiff(str(tmp_path / "l.tif"), data, meta)
    with tifffile.TiffFile(tmp_path / "l.tif") as file:
        assert np.array_equal(file.asarray(), stack)
        assert file.series[0].axes == "ZYX"
    io.write_labels_rois(str(tmp_path / "r.zip"), data, meta)
    rois = roifile.roiread(tmp_path / "r.zip")
    assert sorted((r.name, r.position) for r in rois) == [("0004", 1), ("0004", 2), ("0009", 2)]
    io.write_labels_coco(str(tmp_path / "c.json"), data, meta)
    content = json.loads((tmp_path / "c.json").read_text())
    assert [i["file_name"] for i in content["images"]] == [f"movie_{k:04}" for k in range(3)]
    assert sorted((a["label"], a["score"]) for a in content["annotations"]) == [(4, 0.5), (4, 0.5), (9, 0.75)]
    io.write_labels_rle(str(tmp_path / "r.csv"), data, meta)
    planes = io.read_rle(str(tmp_path / "r.csv"))
    assert [d[1]["name"] for d in planes[:2]] == ["movie_0000", "movie_0001"]
    assert np.array_equal(planes[1][0] > 0, stack[1] > 0)
    io.write_labels_table(str(tmp_path / "t.csv"), data, meta)
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert [(r["index"], r["planes"], r["first"], r["last"]) for r in rows] == [
        ("4", "2", "0", "1"), ("9", "1", "1", "1"),
    ]  # fmt: skip
    with pytest.raises(UserError, match="a plane or a stack"):
        io.write_labels_rle(str(tmp_path / "x.csv"), np.zeros((2, 2, 2, 3, 4), int), {})
    assert not (tmp_path / "x.csv").exists()
