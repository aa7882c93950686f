"""Time series and z-stacks: planes in order, nuclei linked, axes told apart."""

import json

import numpy as np
import pytest
import tifffile

from napari_deepretina.cli import main
from napari_deepretina.data.picture import Picture, asked_planes, named_axes
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.errors import UserError
from napari_deepretina.evaluation.matching import match
from napari_deepretina.inference.engine import threads
from napari_deepretina.inference.linking import Linker
from napari_deepretina.inference.segment import segment
from napari_deepretina.inference.settings import make_settings
from napari_deepretina.inference.stacks import segment_stack_steps
from napari_deepretina.inference.steps import drain


def plane(*places, side=40):
    """Labels with squares of 8 × 8 pixels at (y, x), numbered in their order."""
    labels = np.zeros((side, side), np.int32)
    for label, (y, x) in enumerate(places, start=1):
        labels[y : y + 8, x : x + 8] = label
    return labels


def test_nuclei_keep_their_ids_as_they_move():
    linker = Linker(0.3)
    assert linker.add(plane((0, 0), (20, 20))).tolist() == [1, 2]
    assert linker.add(plane((20, 22), (1, 1))).tolist() == [2, 1]  # the order of a plane does not matter
    assert linker.add(plane((2, 2), (30, 0))).tolist() == [1, 3]  # one left, one came
    assert linker.add(plane((20, 22))).tolist() == [4]  # ids are never used twice
    linker.restart()
    assert linker.add(plane((20, 22))).tolist() == [5]


def test_each_nucleus_has_at_most_one_partner_the_best_first():
    linker = Linker(0.1)
    linker.add(plane((10, 10)))
    # both halves of a division overlap their mother; the better one is her
    assert linker.add(plane((10, 15), (10, 8))).tolist() == [2, 1]
    assert Linker(0.1).add(np.zeros((5, 5), np.int32)).tolist() == []


def test_a_gap_is_bridged_if_asked_for():
    for gap, expected in ((0, 2), (1, 1)):
        linker = Linker(0.5, gap)
        linker.add(plane((10, 10)))
        linker.add(plane())
        assert linker.add(plane((10, 10))).tolist() == [expected]


@pytest.mark.parametrize(
    ("letters", "shape", "named"),
    [
        ("ZYX", (5, 90, 80), "ZYX"),
        ("TZCYX", (2, 3, 4, 90, 80), "TZCYX"),
        ("YXS", (90, 80, 3), "YXC"),
        ("QYX", (30, 90, 80), "ZYX"),
        ("QQYX", (9, 30, 90, 80), "TZYX"),
        ("IYX", (9, 90, 80), "ZYX"),
        ("QQQ", (90, 80, 2), "YXC"),
        ("QYX", (90, 80, 2), "YXC"),
        ("TQYX", (3, 30, 90, 80), "TZYX"),
        ("YX", (90, 80), "YX"),
    ],
)
def test_axes_of_tiff_files(letters, shape, named):
    assert named_axes(letters, shape) == named


def test_pictures_take_planes_apart():
    data = np.arange(2 * 3 * 4 * 5 * 6).reshape(2, 3, 4, 5, 6)
    picture = Picture(data, "TCZYX")
    assert (picture.extent, picture.height_width) == ((2, 4), (5, 6))
    assert np.array_equal(picture.plane((1, 2)), np.moveaxis(data[1, :, 2], 0, -1))
    assert list(picture.indices("1:3")) == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert list(Picture(data[0, 0, 0], "YX").indices()) == [()]
    assert Picture(data[0, :1, 0], "CYX").plane().shape == (5, 6)
    assert list(asked_planes("all", 3)) == [0, 1, 2]
    assert list(asked_planes("2", 3)) == [2]
    assert list(asked_planes(":2", 3)) == [0, 1]
    for wrong in ("3", "2:2", "-1", "a", "1:x", "2:9"):
        with pytest.raises(UserError, match="planes"):
            asked_planes(wrong, 3)
    for axes in ("YX", "YYX", "TZY", "TZYX"):
        with pytest.raises(UserError, match="do not fit"):
            Picture(data[0, 0], axes)


def balls(planes=7):
    """Nuclei that swell and shrink along z, with their true 3D labels; the last two planes are empty."""
    image, labels = synthetic_nuclei((160, 200), 14, diameter=28, seed=3)
    from scipy import ndimage

    depth = ndimage.distance_transform_edt(labels > 0)
    background = np.median(image[labels == 0])
    stack, truth = [], []
    for k in range(planes):
        inside = np.where(k < planes - 2, labels * (depth > abs(k - 2) * 2.0), 0)
        stack.append(np.where(inside > 0, image, np.minimum(image, background)))
        truth.append(inside)
    return np.stack(stack).astype(np.uint8), np.stack(truth).astype(np.int32)


@pytest.fixture(scope="module")
def stack():
    return balls()


def test_a_z_stack_becomes_3d_objects(nuclei_model, stack):
    image, truth = stack
    settings = make_settings(link=0.25)
    told, patches = [], []
    steps = segment_stack_steps(Picture(image, "ZYX"), nuclei_model, settings)
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            found = end.value
            break
        told.append(step.done)
        patches += [step.patch()] if step.patch else []
    assert told == sorted(told)
    assert found.labels.shape == image.shape
    assert found.labels.dtype == np.int32
    assert "7 planes, 2 of them empty" in found.notes
    assert not found.labels[-2:].any()
    hits = match(truth[:5].reshape(5 * 160, 200), found.labels[:5].reshape(5 * 160, 200)).hits(0.5)
    assert len(hits) >= 0.8 * truth.max()
    table = found.features()
    assert len(table["index"]) == found.count == found.labels.max()
    for label in range(1, found.count + 1):
        where = np.flatnonzero((found.labels == label).any(axis=(1, 2)))
        row = label - 1
        assert (table["first"][row], table["last"][row]) == (where[0], where[-1])
        assert table["planes"][row] == len(where)
        assert table["area"][row] == np.count_nonzero(found.labels == label)
    # each plane's patch is shown when it is done
    assert [p.start for p in patches] == [(k, 0, 0) for k in range(5)]
    assert all(np.array_equal(p.labels[0] > 0, found.labels[p.start[0]] > 0) for p in patches)
    # on several threads, in any order, the same
    with threads(nuclei_model) as engine:
        again = drain(segment_stack_steps(Picture(image, "ZYX"), nuclei_model, settings, engine=engine))
    assert (again.labels != found.labels).mean() < 1e-3


def test_planes_that_are_not_linked_share_no_ids(nuclei_model, stack):
    image, _ = stack
    found = drain(segment_stack_steps(Picture(image[:3], "TYX"), nuclei_model, make_settings(planes="1:")))
    assert not found.labels[0].any()
    one, two = (set(np.unique(found.labels[k])) - {0} for k in (1, 2))
    assert not one & two
    assert one | two == set(range(1, found.count + 1))
    alone = segment(image[1], model=nuclei_model)
    assert np.array_equal(found.labels[1], alone.labels)


def test_stacks_in_one_call(nuclei_model, stack):
    image, _ = stack
    import napari_deepretina

    found = napari_deepretina.segment_stack(image[2:4], model=nuclei_model, link=0.25)
    assert found.labels.shape == image[2:4].shape
    assert found.features()["planes"].max() == 2
    colour = np.stack([image[2:3]] * 3, axis=-1)
    rgb = napari_deepretina.segment_stack(colour, "TYXC", model=nuclei_model)
    assert rgb.count > 5
    with pytest.raises(UserError, match="use segment"):
        napari_deepretina.segment_stack(image[2], "YX", model=nuclei_model)


def test_a_cancelled_stack_keeps_its_planes(nuclei_model, stack):
    image, _ = stack
    steps = segment_stack_steps(Picture(image, "ZYX"), nuclei_model, make_settings(link=0.25))
    for step in steps:
        if step.text.startswith("plane 3 of"):
            left = step.partial()
            break
    steps.close()
    assert sorted(left.planes) == [(0,), (1,)]
    assert left.labels[:2].any(axis=(1, 2)).all()
    assert not left.labels[2:].any()
    assert left.notes == ["cancelled at plane 3 of 7"]


def test_stacks_on_the_command_line(tmp_path, stack, capsys):
    image, truth = stack
    two = np.stack([np.zeros_like(image), image], axis=1)
    tifffile.imwrite(tmp_path / "cells.tif", two, metadata={"axes": "ZCYX"}, imagej=True)
    out = tmp_path / "out"
    command = ["segment", str(tmp_path / "cells.tif"), "--out", str(out), "--device", "cpu"]
    assert main(command) == 0
    assert "only channel 1 is looked at" in capsys.readouterr().out
    found = tifffile.imread(out / "cells.tif")
    command += ["--channel", "1", "--link", "0.25", "--format", "labels,zarr,coco,rois,overlay,features"]
    assert main([*command, "--overwrite"]) == 0
    with tifffile.TiffFile(out / "cells.tif") as file:
        assert file.series[0].axes == "ZYX"
        labels = file.asarray()
    assert labels.shape == found.shape == image.shape
    assert np.array_equal(labels > 0, found > 0)
    assert len(match(truth[2], labels[2]).hits(0.5)) >= 0.9 * len(np.unique(truth[2]))
    import zarr

    assert np.array_equal(zarr.open(str(out / "cells.zarr"))["0"][:], labels)
    coco = json.loads((out / "instances.json").read_text())
    assert [i["file_name"] for i in coco["images"]] == [f"cells_{k:04}.tif" for k in range(7)]
    assert (out / "cells_0003_overlay.png").exists()
    assert (out / "cells_0006_rois.zip").exists()
    rows = (out / "features.csv").read_text().splitlines()
    assert len(rows) == 1 + labels.max()
    run = json.loads((out / "run.json").read_text())
    assert run["images"]["cells"]["planes"] == 7
    # the same without the file's word for its axes, by --axes; a range
    tifffile.imwrite(tmp_path / "plain.tif", image)
    more = ["segment", str(tmp_path / "plain.tif"), "--out", str(tmp_path / "o2"), "--device", "cpu"]
    assert main([*more, "--axes", "TYX", "--planes", "1:3"]) == 0
    with tifffile.TiffFile(tmp_path / "o2" / "plain.tif") as file:
        assert file.series[0].axes == "TYX"
        assert file.asarray().any(axis=(1, 2)).tolist() == [False, True, True, *[False] * 4]
    assert main([*more, "--overwrite", "--planes", "1:30"]) == 2
    assert "there are 7" in capsys.readouterr().err
