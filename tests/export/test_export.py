import json
import zipfile

import numpy as np
import pytest
import roifile
import tifffile
from hypothesis import HealthCheck, given, settings
from skimage.draw import polygon2mask

from napari_deepretina.data.coco import read_coco
from napari_deepretina.data.rle_csv import decode_objects, read_rle_csv, read_shapes
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.errors import UserError
from napari_deepretina.export.coco import write_coco
from napari_deepretina.export.rle_csv import write_rle_csv
from napari_deepretina.export.rois import write_rois
from napari_deepretina.export.tiff import overlay, write_image, write_labels
from napari_deepretina.files import written_whole
from napari_deepretina.instances import Instances, relabel_sequential
from tests.strategies import label_images

one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@one_folder
@given(label_images())
def test_rle_csv_round_trip(tmp_path, labels):
    path = tmp_path / "s.csv"
    write_rle_csv([("a", Instances.from_labels(labels)), ("none", Instances.empty((3, 3)))], path)
    strings = read_rle_csv(path)
    assert strings["none"] == []
    decoded = decode_objects(strings["a"], labels.shape, "a")
    assert np.array_equal(decoded.to_labels(), relabel_sequential(labels))
    lines = path.read_text().splitlines()
    assert lines[0] == "ImageId,EncodedPixels"
    assert lines[-1] == "none,"


def test_sizes_travel_when_asked_for(tmp_path):
    write_rle_csv([("a", Instances.empty((7, 9)))], tmp_path / "s.csv", with_shape=True)
    assert read_shapes(tmp_path / "s.csv") == {"a": (7, 9)}
    (tmp_path / "s.csv").write_text("ImageId,EncodedPixels,Height,Width\na,1 1,-3,4\n")
    with pytest.raises(UserError, match="'a' has Height, Width"):
        read_shapes(tmp_path / "s.csv")


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "\x00\xff"])
def test_other_csv_is_told(tmp_path, content):
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(UserError, match=r"x\.csv"):
        read_rle_csv(tmp_path / "x.csv")


@one_folder
@given(label_images())
def test_coco_round_trip(tmp_path, labels):
    path = tmp_path / "i.json"
    write_coco([("a.png", Instances.from_labels(labels))], path)
    assert np.array_equal(read_coco(path)["a.png"].to_labels(), relabel_sequential(labels))
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        counts = annotation["segmentation"]["counts"]
        assert sum(counts) == labels.size
        assert sum(counts[1::2]) == annotation["area"]


def test_coco_polygons_and_misfits(tmp_path):
    path = tmp_path / "i.json"
    content = {
        "images": [{"id": 4, "file_name": "a", "height": 20, "width": 30}],
        "annotations": [{"id": 1, "image_id": 4, "segmentation": [[5, 5, 15, 5, 15, 10, 5, 10]]}],
    }
    path.write_text(json.dumps(content))
    (mask,) = read_coco(path)["a"].masks
    assert abs(mask.sum() - 50) <= 16
    cases = [
        ({"image_id": 9}, "unknown image 9"),
        ({"segmentation": {"size": [20, 30], "counts": [5, 5]}}, "do not fit"),
        ({"segmentation": {"size": [20, 30], "counts": "abc"}}, "compressed"),
    ]
    for change, says in cases:
        content["annotations"][0] = {"id": 1, "image_id": 4, "segmentation": [], **change}
        path.write_text(json.dumps(content))
        with pytest.raises(UserError, match=says):
            read_coco(path)
    path.write_text("[]")
    with pytest.raises(UserError, match="cannot be read as COCO"):
        read_coco(path)


def test_rois_hold_the_outlines(tmp_path):
    _, labels = synthetic_nuclei((80, 90), 8)
    instances = Instances.from_labels(labels)
    write_rois(instances, tmp_path / "r.zip")
    rois = roifile.roiread(tmp_path / "r.zip")
    assert len(rois) == len(instances)
    for number, roi in enumerate(rois, start=1):
        corners = roi.coordinates()[:, ::-1] - 0.5
        drawn = polygon2mask(labels.shape, corners)
        truth = labels == number
        assert (drawn & truth).sum() / (drawn | truth).sum() > 0.9
    write_rois(Instances.empty((5, 5)), tmp_path / "none.zip")
    assert zipfile.ZipFile(tmp_path / "none.zip").namelist() == []


def test_label_tiff_is_int32_and_exact(tmp_path):
    labels = np.arange(70_000, 70_012, dtype=np.int32).reshape(3, 4)
    write_labels(labels, tmp_path / "deep" / "l.tif")
    read = tifffile.imread(tmp_path / "deep" / "l.tif")
    assert read.dtype == np.int32
    assert np.array_equal(read, labels)


def test_overlay_draws_outlines_only(tmp_path):
    image, labels = synthetic_nuclei((64, 64), 5)
    picture = overlay(image, labels)
    assert picture.shape == (64, 64, 3)
    coloured = (picture[..., 0] != picture[..., 1]) | (picture[..., 1] != picture[..., 2])
    assert coloured.any()
    assert not coloured[labels == 0].any()
    write_image(picture, tmp_path / "o.png")
    write_image(picture, tmp_path / "o.tif")
    assert np.array_equal(tifffile.imread(tmp_path / "o.tif"), picture)


def test_a_failed_write_leaves_no_part(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")

    def write(error):
        with written_whole(path) as part:
            part.write_text("half")
            raise error

    with pytest.raises(UserError, match="No space left"):
        write(OSError(28, "No space left on device"))
    with pytest.raises(RuntimeError):
        write(RuntimeError("bug"))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_folders_that_cannot_be_made_are_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_labels(np.zeros((2, 2), np.int32), tmp_path / "file" / "l.tif")
