import json
import zipfile

import numpy as np
import pytest
import roifile
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from skimage.draw import polygon2mask

from napari_deepretina.data.coco import read_coco
from napari_deepretina.data.rle_csv import decode_objects, read_rle_csv, read_shapes
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.errors import UserError
from napari_deepretina.export.coco import write_coco
from napari_deepretina.export.features import write_features
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


def in_pieces():
    """Objects that touch, one in two pieces, one with a hole."""
    labels = np.zeros((40, 50), np.int32)
    labels[2:12, 3:20], labels[2:12, 20:30] = 1, 2
    labels[20:25, 5:15] = labels[30:38, 25:45] = 3
    labels[33:35, 30:35] = 0
    return labels


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
@pytest.mark.parametrize("polygons", [False, True])
def test_pycocotools_reads_what_we_write(tmp_path, polygons):
    from pycocotools.coco import COCO

    labels = in_pieces()
    path = tmp_path / "i.json"
    write_coco([("none.png", Instances.empty((9, 9))), ("a.png", Instances.from_labels(labels))], path,
               polygons=polygons)  # fmt: skip
    coco = COCO(str(path))
    assert [i["file_name"] for i in coco.loadImgs(coco.getImgIds())] == ["none.png", "a.png"]
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=[2]))
    assert [len(a["segmentation"]) for a in annotations] == ([1, 1, 2] if polygons else [2, 2, 2])
    for number, annotation in enumerate(annotations, start=1):
        found, true = coco.annToMask(annotation) > 0, labels == number
        ys, xs = np.nonzero(true)
        assert annotation["bbox"] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
        assert annotation["area"] == true.sum()
        if polygons:
            assert (found & true).sum() / (found | true).sum() > 0.85
        else:
            assert np.array_equal(found, true)


@one_folder
@given(label_images())
def test_compressed_run_lengths_are_read(tmp_path, labels):
    from pycocotools import mask as coco_mask

    annotations = []
    for number in np.unique(labels[labels > 0]).tolist():
        packed = coco_mask.encode(np.asfortranarray(labels == number).astype(np.uint8))
        packed["counts"] = packed["counts"].decode()
        annotations.append({"id": number, "image_id": 1, "segmentation": packed})
    height, width = labels.shape
    image = {"id": 1, "file_name": "a", "height": height, "width": width}
    (tmp_path / "i.json").write_text(json.dumps({"images": [image], "annotations": annotations}))
    assert np.array_equal(read_coco(tmp_path / "i.json")["a"].to_labels(), relabel_sequential(labels))


def test_seventy_thousand_objects_survive(tmp_path):
    labels = np.zeros((600, 600), np.int32)
    labels[::2, ::2] = np.arange(1, 90_001).reshape(300, 300)
    labels[labels > 70_000] = 0
    write_rle_csv([("many", Instances.from_labels(labels))], tmp_path / "s.csv")
    strings = read_rle_csv(tmp_path / "s.csv")["many"]
    assert len(strings) == 70_000
    assert np.array_equal(decode_objects(strings, labels.shape, "many").to_labels(), labels)


def test_objects_in_pieces_and_touching_survive(tmp_path):
    labels = in_pieces()
    for count, end in enumerate((".csv", ".json")):
        path = tmp_path / f"x{end}"
        if count == 0:
            write_rle_csv([("a", Instances.from_labels(labels))], path)
            read = decode_objects(read_rle_csv(path)["a"], labels.shape, "a")
        else:
            write_coco([("a", Instances.from_labels(labels))], path)
            read = read_coco(path)["a"]
        assert np.array_equal(read.to_labels(), labels)


@pytest.mark.parametrize(
    ("strings", "says"),
    [
        (["1 3", "3 2"], "objects 1 and 2 share pixels"),
        (["1 3 2 2"], "runs '1 3' and '2 2' overlap"),
        (["1"], "1 numbers"),
        (["1 -2"], "outside"),
        (["20 4"], "outside"),
        (["a b"], "not a list of integers"),
    ],
)
def test_bad_objects_are_told_with_image_and_value(strings, says):
    with pytest.raises(UserError, match=f"image 'x', .*{says}"):
        decode_objects(strings, (4, 5), "x")


run_text = st.text("0123456789 -x.", max_size=12)


@given(st.lists(run_text, max_size=4))
def test_any_run_text_is_read_or_told(strings):
    try:
        labels = decode_objects(strings, (3, 4), "x").to_labels()
    except UserError as error:
        told = str(error)
    else:
        assert labels.shape == (3, 4)
        assert labels.max() == sum(bool(s.strip()) for s in strings)
        return
    assert "image 'x'" in told


leaf = st.none() | st.integers(-3, 30) | st.floats(-3, 30) | st.text("0aP<", max_size=4) | st.booleans()
tree = st.recursive(leaf, lambda inner: st.lists(inner, max_size=4), max_leaves=8)
segmentation = tree | st.fixed_dictionaries({"size": st.just([3, 4]) | tree, "counts": tree})


@one_folder
@given(segmentation, tree)
def test_any_coco_annotation_is_read_or_told(tmp_path, shape, image_id):
    path = tmp_path / "i.json"
    image = {"id": 1, "file_name": "a", "height": 3, "width": 4}
    for which in (1, image_id):
        annotation = {"id": 5, "image_id": which, "segmentation": shape}
        path.write_text(json.dumps({"images": [image], "annotations": [annotation, annotation]}))
        try:
            told = f"annotation 5 gave {read_coco(path)['a'].to_labels().shape}"
        except UserError as error:
            told = str(error)
        assert "annotation 5" in told


def test_feature_tables(tmp_path):
    tables = [
        ("a", {"label": np.array([1, 2]), "score": np.array([0.5, 0.25])}),
        ("b", {"label": [], "x": []}),
    ]
    write_features(tables, tmp_path / "f.csv")
    lines = (tmp_path / "f.csv").read_text().splitlines()
    assert lines == ["image,label,score,x", "a,1,0.5,", "a,2,0.25,"]


def test_pixel_size_travels_with_the_labels(tmp_path):
    labels = np.arange(12, dtype=np.int32).reshape(3, 4)
    write_labels(labels, tmp_path / "l.tif", pixel_size=(0.5, 0.25))
    with tifffile.TiffFile(tmp_path / "l.tif") as file:
        assert 'PhysicalSizeX="0.25"' in file.ome_metadata
        assert 'PhysicalSizeY="0.5"' in file.ome_metadata
        assert file.asarray().dtype == np.int32
        assert np.array_equal(file.asarray(), labels)


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
