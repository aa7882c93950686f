"""One number for one nucleus: in the label image, the table, the ROIs and COCO; and nothing of it is lost."""

import csv
import json
import tracemalloc

import numpy as np
import pytest
import roifile
import tifffile
from PIL import Image, ImageDraw

from napari_deepretina.cli import main
from napari_deepretina.data.coco import read_coco
from napari_deepretina.data.picture import read_picture
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.document import Document, measure
from napari_deepretina.errors import UserError
from napari_deepretina.export.coco import coco_content, write_coco
from napari_deepretina.export.outlines import outlines
from napari_deepretina.export.rois import write_rois
from napari_deepretina.export.tiff import write_labels
from napari_deepretina.instances import Instances
from napari_deepretina.instances.labels import bounding_boxes, fitting_int32
from napari_deepretina.postprocess import PostprocessSettings

IDS = [3, 7, 40, 2**31 - 1]


def odd_labels():
    """A plain nucleus, one with a hole, one in two pieces, one of a huge id."""
    labels = np.zeros((40, 50), np.int32)
    labels[2:8, 2:9] = 3
    labels[12:24, 3:17] = 7
    labels[15:19, 7:12] = 0
    labels[5:8, 30:34], labels[12:20, 30:40] = 40, 40
    labels[30:36, 20:28] = 2**31 - 1
    return labels


def filled(ring, shape):
    """Pixels whose centres lie inside a polygon."""
    picture = Image.new("1", (shape[1] * 4, shape[0] * 4))
    ImageDraw.Draw(picture).polygon([tuple(4 * p) for p in ring], fill=1)
    return np.asarray(picture)[2::4, 2::4]


def test_ids_are_the_same_everywhere(tmp_path):
    labels = odd_labels()
    instances = Instances.from_labels(labels)
    assert instances.ids.tolist() == IDS
    assert np.array_equal(instances.to_labels(), labels)
    content = coco_content([("a.png", instances)])
    assert [a["id"] for a in content["annotations"]] == [a["label"] for a in content["annotations"]] == IDS
    write_rois(instances, tmp_path / "r.zip")
    assert sorted(int(r.name) for r in roifile.roiread(tmp_path / "r.zip")) == IDS
    write_labels(instances, tmp_path / "l.tif")
    assert np.array_equal(tifffile.imread(tmp_path / "l.tif"), labels)
    assert instances[instances.areas > 50].ids.tolist() == [1, 2]  # a selection is numbered anew


def test_several_images_in_one_coco_file():
    one = Instances.from_labels(odd_labels())
    content = coco_content([("a.png", one), ("b.png", one)])
    assert [a["label"] for a in content["annotations"]] == IDS * 2
    assert [a["id"] for a in content["annotations"]] == list(range(1, 9))


def test_rois_hold_pieces_and_holes(tmp_path):
    labels = odd_labels()
    write_rois(Instances.from_labels(labels), tmp_path / "r.zip", plane=4)
    for roi in roifile.roiread(tmp_path / "r.zip"):
        parts = roi.coordinates(multi=True)
        parts = parts if isinstance(parts, list) else [parts]
        covered = np.zeros(labels.shape, bool)
        for ring in parts:  # ImageJ fills by the even-odd rule
            covered ^= filled(np.asarray(ring), labels.shape)
        assert np.array_equal(covered, labels == int(roi.name)), roi.name
        assert roi.position == 5


def test_the_largest_piece_is_the_one_of_largest_area():
    mask = np.zeros((30, 60), bool)
    mask[2:3, 1:50] = True  # a long line
    mask[10:25, 10:25] = True
    first = outlines(mask)[0]
    assert first[:, 1].min() > 5


@pytest.mark.parametrize(
    ("labels", "wanted", "renumbered"),
    [
        (np.array([[0, 2**40, 5]], np.int64), [[0, 2, 1]], True),
        (np.array([[0, 2**63 + 5, 2**33]], np.uint64), [[0, 2, 1]], True),
        (np.array([[0, 2**31 - 1, 5]], np.uint32), [[0, 2**31 - 1, 5]], False),
        (np.array([[0, 200]], np.uint8), [[0, 200]], False),
        (np.array([[False, True]]), [[0, 1]], False),
    ],
)
def test_ids_are_never_wrapped_around(tmp_path, labels, wanted, renumbered):
    fitting, told = fitting_int32(labels)
    assert fitting.dtype == np.int32
    assert fitting.tolist() == wanted
    assert told == renumbered
    write_labels(labels, tmp_path / "l.tif")
    assert tifffile.imread(tmp_path / "l.tif").tolist() == wanted
    with pytest.raises(UserError, match="holds the id -1"):
        fitting_int32(np.array([[-1]]))


def test_memory_does_not_grow_with_the_highest_id():
    labels = odd_labels()
    tracemalloc.start()
    ids, boxes = bounding_boxes(labels)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ids.tolist() == IDS
    assert boxes.tolist()[0] == [2, 2, 9, 8]
    assert most < 1_000_000


@pytest.mark.parametrize("top", [9, 2**31 - 1])
def test_a_huge_id_changes_nothing(top):
    from napari_deepretina.inspection.data import _odd
    from napari_deepretina.instances import editing
    from napari_deepretina.instances.labels import sizes_of

    labels = odd_labels()
    labels[labels == 40] = 5
    labels[labels == 2**31 - 1] = top
    tracemalloc.start()
    ids, areas = sizes_of(labels)
    measured = measure(labels)
    y, x = measured["y"], measured["x"]
    found = Instances.from_labels(np.pad(np.ones((4, 4), np.int32), ((4, 4), (5, 5))))
    _, values = editing.replace_within(labels, (18, 28, 32, 40), found, 50, np.zeros(0, np.int64))
    odd = _odd("a", labels)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ids.tolist() == [3, 5, 7, top]
    assert areas.tolist() == [(labels == i).sum() for i in ids]
    assert (y[3], x[3]) == (32.5, 23.5)
    assert set(values.tolist()) == {0, 50}
    assert [o.label for o in odd if o.kind == "several pieces"] == [5]
    assert most < 4_000_000


def test_new_ids_fit_beside_huge_ones():
    document = Document(odd_labels(), PostprocessSettings(), {})
    assert document.new_id() == 41
    assert document.new_id() == 42


def test_pixel_size_as_ome_and_imagej_read_it(tmp_path):
    write_labels(odd_labels(), tmp_path / "l.tif", pixel_size=(0.5, 0.25))
    assert read_picture(tmp_path / "l.tif").pixel_size == pytest.approx((0.5, 0.25))
    with tifffile.TiffFile(tmp_path / "l.tif") as file:
        assert 'PhysicalSizeX="0.25"' in file.ome_metadata
        assert 'PhysicalSizeXUnit="µm"' in file.ome_metadata
        tags = file.pages.first.tags
        assert int(tags["ResolutionUnit"].value) == 3  # centimetres
        for name, micrometres in (("XResolution", 0.25), ("YResolution", 0.5)):
            pixels, per = tags[name].value
            assert pixels / per == pytest.approx(1e4 / micrometres)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A picture in micrometres, a stack and a picture without a size, segmented on the command line."""
    folder = tmp_path_factory.mktemp("in")
    image, _ = synthetic_nuclei((100, 120), 8, diameter=26, seed=1)
    tifffile.imwrite(folder / "sized.tif", image, ome=True,
                     metadata={"axes": "YX", "PhysicalSizeX": 325, "PhysicalSizeXUnit": "nm",
                               "PhysicalSizeY": 0.5})  # fmt: skip
    tifffile.imwrite(folder / "stack.tif", np.stack([image, image]), metadata={"axes": "ZYX"}, imagej=True)
    Image.fromarray(image).save(folder / "plain.png")
    out = folder / "out"
    formats = "labels,rle,coco,polygons,rois,features"
    assert main(["segment", str(folder), "--out", str(out), "--format", formats, "--device", "cpu"]) == 0
    return out


def test_the_command_line_keeps_pixel_sizes(results):
    assert read_picture(results / "sized.tif").pixel_size == pytest.approx((0.5, 0.325))
    assert read_picture(results / "plain.tif").pixel_size is None
    assert tifffile.imread(results / "plain.tif").dtype == np.int32


def test_coco_names_the_image_itself(results):
    content = json.loads((results / "instances.json").read_text())
    names = [i["file_name"] for i in content["images"]]
    assert names == ["plain.png", "sized.tif", "stack_0000.tif", "stack_0001.tif"]
    scores = [a["score"] for a in content["annotations"]]
    assert len(set(scores)) > 3
    assert all(0 < s < 1 for s in scores)
    assert len({a["id"] for a in content["annotations"]}) == len(content["annotations"])


def test_tables_rois_and_labels_of_a_run_agree(results):
    with (results / "features.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["image"] == "plain"]
    labels = tifffile.imread(results / "plain.tif")
    rois = roifile.roiread(results / "plain_rois.zip")
    ids = np.unique(labels[labels > 0]).tolist()
    assert sorted(int(r["index"]) for r in rows) == sorted(int(r.name) for r in rois) == ids
    for row in rows:
        assert int(row["area"]) == (labels == int(row["index"])).sum()
    assert {r.position for r in roifile.roiread(results / "stack_0001_rois.zip")} == {2}


def test_what_a_person_drew_has_no_score(tmp_path):
    from dataclasses import replace

    instances = Instances.from_labels(odd_labels())
    scores = np.array([0.9, np.nan, 0.5, np.nan], np.float32)
    write_coco([("a.png", replace(instances, scores=scores))], tmp_path / "c.json")
    told = json.loads((tmp_path / "c.json").read_text())["annotations"]
    assert [a.get("score") for a in told] == [pytest.approx(0.9), None, 0.5, None]
    assert len(read_coco(tmp_path / "c.json")["a.png"]) == 4


def test_evaluate_counts_all_objects_of_crowded_images(tmp_path, capsys):
    labels = np.zeros((120, 120), np.int32)
    for k in range(144):
        y, x = divmod(k, 12)
        labels[10 * y + 1 : 10 * y + 8, 10 * x + 1 : 10 * x + 8] = k + 1
    write_coco([("a.png", Instances.from_labels(labels))], tmp_path / "t.json")
    command = ["evaluate", "--truth", str(tmp_path / "t.json"), "--pred", str(tmp_path / "t.json"), "--coco"]
    assert main([*command, "--json", str(tmp_path / "s.json")]) == 0
    assert "144 objects" in capsys.readouterr().err
    assert json.loads((tmp_path / "s.json").read_text())["coco"]["masks"]["AP"] == pytest.approx(1)
    assert main([*command, "--max-dets", "100", "--json", str(tmp_path / "s.json")]) == 0
    assert json.loads((tmp_path / "s.json").read_text())["coco"]["masks"]["AP"] < 0.75
