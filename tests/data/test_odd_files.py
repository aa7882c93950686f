"""Files as microscopes, scanners and other programs write them: named cases, each with its right value."""

import io
import json
import os
import zipfile

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_deepretina.data import microscopes
from napari_deepretina.data.coco import CocoFile
from napari_deepretina.data.coco_dataset import CocoDataset
from napari_deepretina.data.files import Archive, decode_image, decode_labels, open_tree
from napari_deepretina.data.joined import JoinedDataset
from napari_deepretina.data.open import open_dataset
from napari_deepretina.data.pairs import PairsDataset
from napari_deepretina.data.picture import Wanted, named_axes, read_picture
from napari_deepretina.data.sample import checked_sample
from napari_deepretina.data.split import random_split, read_split
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.errors import UserError
from napari_deepretina.inference.sources import Looking, find_sources
from napari_deepretina.intake import parse_json
from napari_deepretina.training.asked import Asked
from napari_deepretina.training.run import plan_training

GREY, LABELS = synthetic_nuclei((60, 70), 6, diameter=18, seed=1)
TISSUE, _ = synthetic_nuclei((60, 70), 6, diameter=18, kind="tissue", seed=1)


def by_pillow(path, mode, **options):
    more = {"palette": Image.Palette.ADAPTIVE} if mode == "P" else {}
    Image.fromarray(TISSUE).convert(mode, **more).save(path, **options)


def close(found, wanted, by):
    return found.shape == wanted.shape and np.abs(found.astype(float) - wanted).mean() < by


# name → (writer, the right pixels, how far the mean may be off)
COLOURS = {
    "palette.tif": (lambda p: by_pillow(p, "P"), TISSUE, 12),
    "cmyk.tif": (lambda p: by_pillow(p, "CMYK"), TISSUE, 2),
    "cielab.tif": (
        lambda p: _as_lab(TISSUE).save(p),
        TISSUE,
        3,
    ),
    "ycbcr.tif": (lambda p: by_pillow(p, "YCbCr"), TISSUE, 3),
    "rgba.png": (lambda p: by_pillow(p, "RGBA"), TISSUE, 0.1),
    "palette.png": (lambda p: by_pillow(p, "P"), TISSUE, 12),
    "cmyk.jpg": (lambda p: by_pillow(p, "CMYK", quality=98), TISSUE, 6),
    "grey palette.gif": (lambda p: Image.fromarray(GREY).save(p), GREY, 1),
    "grey and alpha.png": (lambda p: Image.fromarray(GREY).convert("LA").save(p), GREY, 0.1),
    "white is zero.tif": (lambda p: tifffile.imwrite(p, 255 - GREY, photometric="miniswhite"), GREY, 0.1),
    "white is zero 16.tif": (
        lambda p: tifffile.imwrite(p, 65535 - GREY.astype(np.uint16), photometric="miniswhite"), GREY, 0.1,
    ),
    "alpha.tif": (
        lambda p: tifffile.imwrite(
            p, np.dstack([TISSUE, np.full(GREY.shape, 200, np.uint8)]), photometric="rgb",
            extrasamples=["unassalpha"],
        ), TISSUE, 0.1,
    ),
    "grey alpha.tif": (
        lambda p: tifffile.imwrite(
            p, np.dstack([GREY, np.full(GREY.shape, 200, np.uint8)]), photometric="minisblack",
            extrasamples=["unassalpha"], planarconfig="contig",
        ), GREY, 0.1,
    ),
}  # fmt: skip


def _as_lab(rgb):
    from PIL import ImageCms

    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.profileToProfile(Image.fromarray(rgb), *profiles, outputMode="LAB")


@pytest.mark.parametrize("name", COLOURS)
def test_colours_are_what_they_mean(tmp_path, name):
    write, wanted, by = COLOURS[name]
    write(tmp_path / name)
    found = read_picture(tmp_path / name)
    assert close(np.asarray(found.plane()), wanted, by), name
    again = decode_image((tmp_path / name).read_bytes(), name)
    if "white" not in name and "alpha.tif" not in name:
        assert close(again, wanted, by)


def test_sixteen_bits_with_alpha(tmp_path):
    import imagecodecs

    deep = np.dstack([GREY.astype(np.uint16) * 200, np.full(GREY.shape, 65535, np.uint16)])
    content = imagecodecs.png_encode(deep)
    assert np.array_equal(decode_image(bytes(content), "a.png"), deep[..., 0])


def test_series_are_told_and_can_be_chosen(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(GREY, photometric="minisblack")
        file.write(np.flipud(GREY)[:40], photometric="minisblack")
    first = read_picture(path)
    assert np.array_equal(first.pixels, GREY)
    assert first.notes == ("the file holds 2 series: number 0 was taken (--series takes another)",)
    assert np.array_equal(read_picture(path, Wanted(series=1)).pixels, np.flipud(GREY)[:40])
    with pytest.raises(UserError, match=r"holds 2 series.*no 2"):
        read_picture(path, Wanted(series=2))


@pytest.mark.parametrize(
    ("letters", "shape", "wanted"),
    [
        ("QYX", (40, 60, 70), "ZYX"),
        ("QQYX", (20, 30, 60, 70), "TZYX"),
        ("YXS", (60, 70, 3), "YXC"),
        ("QYX", (60, 70, 3), "YXC"),
        ("CYX", (3, 60, 70), "CYX"),
        ("QCYX", (3, 2, 60, 70), "ZCYX"),
        ("QYX", (3, 60, 70), None),
        ("IYX", (5, 60, 70), None),
        ("IYX", (6, 60, 70), "ZYX"),
    ],
)
def test_axes_are_told_or_asked_for(letters, shape, wanted):
    if wanted:
        assert named_axes(letters, shape) == wanted
        return
    with pytest.raises(UserError, match=r"may hold channels or planes.*CYX or ZYX \(--axes\)"):
        named_axes(letters, shape)


def test_what_was_asked_can_be_answered(tmp_path):
    stack = np.stack([GREY, GREY // 2, GREY // 3])
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    with pytest.raises(UserError, match="may hold channels or planes"):
        read_picture(tmp_path / "a.tif")
    assert read_picture(tmp_path / "a.tif", Wanted("CYX")).plane().shape == (60, 70, 3)
    assert read_picture(tmp_path / "a.tif", Wanted("ZYX")).extent == (3,)


SIZES = {
    "ome": (
        {"ome": True, "metadata": {"axes": "YX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5}}, (0.5, 0.25)),
    "ome in nanometres": (
        {"ome": True, "metadata": {"axes": "YX", "PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm",
                                   "PhysicalSizeY": 500, "PhysicalSizeYUnit": "nm"}}, (0.5, 0.25)),
    "imagej": ({"imagej": True, "resolution": (4, 2), "metadata": {"unit": "um"}}, (0.5, 0.25)),
    "imagej with a micro sign": ({"imagej": True, "resolution": (4, 2), "metadata": {"unit": "\\u00B5m"}},
                                 (0.5, 0.25)),
    "resolution": ({"resolution": (40_000, 20_000), "resolutionunit": "CENTIMETER"}, (0.5, 0.25)),
    "dots an inch": ({"resolution": (300, 300), "resolutionunit": "INCH"}, None),
    "pixels": ({"imagej": True, "metadata": {"unit": "pixel"}}, None),
    "nothing": ({}, None),
}  # fmt: skip


@pytest.mark.parametrize("kind", SIZES)
def test_the_size_of_pixels(tmp_path, kind):
    options, wanted = SIZES[kind]
    tifffile.imwrite(tmp_path / "a.tif", GREY, **options)
    found = read_picture(tmp_path / "a.tif").pixel_size
    assert found == (pytest.approx(wanted) if wanted else None)


def test_large_pictures_are_no_bombs(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    Image.fromarray(GREY).save(tmp_path / "a.png")
    assert np.array_equal(decode_image((tmp_path / "a.png").read_bytes(), "a.png"), GREY)
    assert Image.MAX_IMAGE_PIXELS == 1000
    monkeypatch.setattr("napari_deepretina.intake.MOST_PIXELS", 1000)
    with pytest.raises(UserError, match="declares 60×70 pixels, more than 1,000"):
        decode_image((tmp_path / "a.png").read_bytes(), "a.png")


@pytest.mark.parametrize("suffix", [".czi", ".nd2", ".lif"])
def test_files_of_microscopes_name_the_extra(tmp_path, suffix, monkeypatch):
    import sys

    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"not really")
    monkeypatch.setitem(sys.modules, "bioio", None)
    with pytest.raises(UserError, match=r"pip install 'napari-deepretina\[microscopes\]'"):
        read_picture(path)
    assert [s.name for s in find_sources([str(tmp_path)])] == ["a"]


class _Bio:
    """As bioio's BioImage, of two scenes."""

    scenes = ("a", "b")
    channel_names = ("DAPI",)

    def __init__(self, path):
        from types import SimpleNamespace

        import dask.array

        self.dask_data = dask.array.from_array(GREY[None, None, None])
        self.dims = SimpleNamespace(order="TCZYX")
        self.physical_pixel_sizes = SimpleNamespace(Y=0.5, X=0.25, Z=None)

    def set_scene(self, number):
        self.scene = number


def test_files_of_microscopes_are_read(tmp_path, monkeypatch):
    import sys
    from types import ModuleType

    bioio, base = ModuleType("bioio"), ModuleType("bioio_base")
    bioio.BioImage, base.exceptions = _Bio, ModuleType("bioio_base.exceptions")
    base.exceptions.UnsupportedFileFormatError = KeyError
    for name, module in (("bioio", bioio), ("bioio_base", base), ("bioio_base.exceptions", base.exceptions)):
        monkeypatch.setitem(sys.modules, name, module)
    found = read_picture(tmp_path / "a.czi")
    assert np.array_equal(np.asarray(found.plane()), GREY)
    assert (found.axes, found.pixel_size) == ("YX", (0.5, 0.25))
    assert "2 scenes" in found.notes[0]
    assert found.channels == ("DAPI",)
    with pytest.raises(UserError, match="there is no scene 2"):
        microscopes.open_microscope_file(tmp_path / "a.czi", 2)


# ---- folders, globs, archives ----


def png(image=GREY):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()


def put(path, content=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png() if content is None else content)


def test_sub_folders(tmp_path):
    put(tmp_path / "a.png")
    put(tmp_path / "deep" / "b.png")
    put(tmp_path / "deep" / "deeper" / "a.png")
    notes = []
    assert [s.name for s in find_sources([str(tmp_path)], notes=notes)] == ["a"]
    assert "2 images in sub-folders" in notes[0]
    assert "--recursive" in notes[0]
    found = find_sources([str(tmp_path)], Looking(recursive=True), notes := [])
    assert [s.name for s in found] == ["a", "b", "deeper_a"]
    assert "is written as deeper_a" in notes[0]
    put(tmp_path / "deep2" / "x" / "c.png")
    with pytest.raises(UserError, match=r"sub-folders only.*\(--recursive\)"):
        find_sources([str(tmp_path / "deep2")])


def test_linked_folders(tmp_path):
    put(tmp_path / "elsewhere" / "a.png")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "images").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    put(folder / "labels" / "a.png", png((LABELS > 0).astype(np.uint8)))
    assert list(PairsDataset(open_tree(folder)).names) == ["a"]
    assert [s.name for s in find_sources([str(folder)])] == ["a"]


def test_brackets_are_letters_where_they_are_no_glob(tmp_path):
    put(tmp_path / "plate [1]" / "a [x].png")
    assert [s.name for s in find_sources([str(tmp_path / "plate [1]" / "*.png")])] == ["a [x]"]
    assert [s.name for s in find_sources([str(tmp_path / "plate [1]" / "a [x].png")])] == ["a [x]"]
    assert [s.name for s in find_sources([str(tmp_path / "plate?[[]1]" / "*.png")])] == ["a [x]"]
    with pytest.raises(UserError, match="does not exist, and no file matches"):
        find_sources(["~nobody-of-that-name/*.png"])
    with pytest.raises(UserError):
        find_sources(["a" * 5000])


def test_equal_names_are_kept_apart(tmp_path):
    for place in ("one/a.png", "two/a.png", "two/A.tif", "one/two/a.png"):
        put(tmp_path / place, None if place.endswith("png") else b"")
    tifffile.imwrite(tmp_path / "two" / "A.tif", GREY)
    found = find_sources(
        [str(tmp_path / "one"), str(tmp_path / "two"), str(tmp_path / "one/two")], notes=(n := [])
    )
    names = [s.name for s in found]
    assert len({x.casefold() for x in names}) == len(names) == 4
    assert names[0] == "a"
    assert "two_a" in [x.casefold() for x in names]
    assert sum("is written as" in x for x in n) == 3
    twice = find_sources([str(tmp_path / "one" / "a.png")] * 2)
    assert len(twice) == 1


def archive(path, entries, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return path


def flagged(path, *, offset_local, offset_central, value):
    """A zip with one field of every header changed."""
    data = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", offset_local), (b"PK\x01\x02", offset_central)):
        at = data.find(mark)
        while at >= 0:
            data[at + offset : at + offset + 2] = value.to_bytes(2, "little")
            at = data.find(mark, at + 4)
    path.write_bytes(bytes(data))
    return path


def encrypted(path):
    return flagged(path, offset_local=6, offset_central=8, value=1)


def deflate64(path):
    return flagged(path, offset_local=8, offset_central=10, value=9)


def damaged(path):
    data = bytearray(path.read_bytes())
    at = data.find(b"IDAT")
    data[at + 30 : at + 60] = bytes(30)
    path.write_bytes(bytes(data))
    return path


@pytest.mark.parametrize("spoil", [encrypted, deflate64, damaged])
def test_a_bad_member_is_a_sentence(tmp_path, spoil):
    path = spoil(archive(tmp_path / "a.zip", {"x.png": png()}, zipfile.ZIP_STORED))
    (source,) = find_sources([str(path)])
    with pytest.raises(UserError, match=r"a\.zip/x\.png cannot be read"):
        source.read()


def test_backslashes_of_other_systems(tmp_path):
    path = archive(
        tmp_path / "a.zip", {"images\\a.png": png(), "labels\\a.png": png(LABELS.astype(np.uint8))}
    )
    raw = path.read_bytes()
    assert b"images\\a.png" in raw
    assert list(Archive(path).names()) == ["images/a.png", "labels/a.png"]
    dataset, _ = open_dataset(path)
    assert np.array_equal(dataset[0].image, GREY)


# ---- JSON ----


def test_byte_order_marks(tmp_path):
    assert parse_json(b"\xef\xbb\xbf[1]") == [1]
    (tmp_path / "s.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"train": ["a"], "val": []}).encode())
    assert read_split(tmp_path / "s.json").train == ("a",)
    with pytest.raises(ValueError, match="nested"):
        parse_json("[" * 100_000)


def coco(*names):
    images = [{"id": k, "file_name": n, "height": 60, "width": 70} for k, n in enumerate(names, start=1)]
    marks = [
        {"id": k, "image_id": k, "category_id": 1, "iscrowd": 0,
         "segmentation": [[10 * k, 10, 10 * k + 8, 10, 10 * k + 8, 20, 10 * k, 20]]}
        for k in range(1, len(names) + 1)
    ]  # fmt: skip
    return {"images": images, "annotations": marks, "categories": [{"id": 1, "name": "nucleus"}]}


def test_equal_file_names_in_coco_are_kept_apart(tmp_path):
    for place in ("a.png", "one/a.png", "two/b.png"):
        put(tmp_path / place)
    path = tmp_path / "c.json"
    path.write_text(json.dumps(coco("a.png", "one/a.png", "two/b.png", "a.png")))
    file = CocoFile(path)
    assert len(file.shapes) == 4
    dataset = CocoDataset(path)
    assert len(set(dataset.names)) == len(dataset) == 4
    starts = sorted(int(np.nonzero(dataset[i].labels)[1].min()) for i in range(4))
    assert starts == [10, 20, 30, 40]
    joined = JoinedDataset([dataset, dataset])
    assert len(set(joined.names)) == 8


# ---- training data ----

MASK = ((LABELS > 0) * 255).astype(np.uint8)


def pieces(mask):
    from scipy import ndimage

    return ndimage.label(mask)[1]


TRUTHS = {
    "ids": (LABELS, len(np.unique(LABELS)) - 1),
    "as float": (LABELS.astype(np.float32), len(np.unique(LABELS)) - 1),
    "with an axis of one": (LABELS[None], len(np.unique(LABELS)) - 1),
    "with two axes of one": (LABELS[None, :, :, None], len(np.unique(LABELS)) - 1),
    "as three equal channels": (np.dstack([LABELS] * 3), len(np.unique(LABELS)) - 1),
    "0 and 255": (MASK, pieces(MASK)),
    "booleans": (LABELS > 0, pieces(MASK)),
    "huge ids": (np.where(LABELS > 0, LABELS.astype(np.uint64) + 2**40, 0), len(np.unique(LABELS)) - 1),
    "ids at the end of int32": (np.where(LABELS > 0, LABELS.astype(np.int64) + 2**31 - 100, 0),
                                len(np.unique(LABELS)) - 1),
    "nothing": (np.zeros_like(LABELS), 0),
}  # fmt: skip


@pytest.mark.parametrize("kind", TRUTHS)
def test_truth_is_taken_where_its_meaning_is_clear(kind):
    labels, count = TRUTHS[kind]
    sample = checked_sample("a", GREY, labels)
    assert sample.labels.dtype == np.int32
    assert sample.labels.shape == GREY.shape
    assert len(np.unique(sample.labels[sample.labels > 0])) == count
    assert np.array_equal(sample.labels > 0, LABELS > 0) or not count


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (LABELS + 0.5, "not whole"),
        (np.full(GREY.shape, np.nan), "not whole"),
        (LABELS - 5, "ids are positive"),
        (np.dstack([LABELS, LABELS * 2, LABELS]), "need one channel"),
        (LABELS[:30], "differ in size"),
    ],
)
def test_truth_without_meaning_is_a_sentence(labels, told):
    with pytest.raises(UserError, match=told):
        checked_sample("a", GREY, labels)


def test_palettes_of_label_images_are_ids(tmp_path):
    picture = Image.fromarray(LABELS.astype(np.uint8), mode="P")
    picture.putpalette([(17 * i) % 256 for i in range(768)])
    for name in ("a.png", "a.tif"):
        picture.save(tmp_path / name)
        assert np.array_equal(decode_labels((tmp_path / name).read_bytes(), name), LABELS)


def test_masks_beside_their_images(tmp_path):
    for name in ("x", "y"):
        tifffile.imwrite(tmp_path / f"{name}.tif", GREY)
    tifffile.imwrite(tmp_path / "x_masks.tif", LABELS)
    tifffile.imwrite(tmp_path / "y_mask.tif", LABELS)
    dataset, _ = open_dataset(tmp_path)
    assert list(dataset.names) == ["x", "y"]
    assert np.array_equal(dataset[0].labels, LABELS)
    folder = tmp_path / "set"
    for sub in ("images", "masks"):
        (folder / sub).mkdir(parents=True)
    tifffile.imwrite(folder / "images" / "x.tif", GREY)
    tifffile.imwrite(folder / "masks" / "x_masks.tif", LABELS)
    dataset, _ = open_dataset(folder)
    assert list(dataset.names) == ["x"]


def test_one_image_is_enough_and_no_nucleus_is_too_few(tmp_path):
    assert random_split(["a"]).train == random_split(["a"]).val == ("a",)
    for sub in ("images", "labels"):
        (tmp_path / sub).mkdir()
    tifffile.imwrite(tmp_path / "images" / "x.tif", GREY)
    tifffile.imwrite(tmp_path / "labels" / "x.tif", LABELS)
    plan = plan_training(Asked(recipe="fine-tune", data=[str(tmp_path)], weights="bundled"))
    assert len(plan.train) == len(plan.val) == 1
    tifffile.imwrite(tmp_path / "labels" / "x.tif", np.zeros_like(LABELS))
    with pytest.raises(UserError, match="none of the 1 images to train on has a nucleus"):
        plan_training(Asked(recipe="fine-tune", data=[str(tmp_path)], weights="bundled"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipes_are_refused_and_not_waited_for(tmp_path):
    from napari_deepretina.data.coco import CocoFile
    from napari_deepretina.data.regions import read_regions
    from napari_deepretina.data.split import read_split
    from napari_deepretina.inference.views import resolve_views

    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("pipe.tif", "pipe.png", "pipe.json"):
        os.mkfifo(folder / name)
    Image.fromarray(GREY).save(folder / "a.png")
    for read in (read_picture, read_regions, read_split, CocoFile):
        for name in ("pipe.tif", "pipe.png") if read is read_picture else ("pipe.json",):
            with pytest.raises(UserError, match="is a pipe"):
                read(folder / name)
    with pytest.raises(UserError, match="is a pipe"):
        resolve_views(str(folder / "pipe.json"))
    with pytest.raises(UserError, match="is a pipe"):
        find_sources([str(folder / "pipe.tif")])
    read, skipped = [], []
    for source in find_sources([str(folder)]):
        try:
            read.append(source.read())
        except UserError as error:
            skipped.append(str(error))
    assert len(read) == 1
    assert all("is a pipe" in reason for reason in skipped)
    assert len(skipped) == 2
