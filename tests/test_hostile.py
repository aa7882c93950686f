"""Hostile and broken input: commands end well or with one sentence, and check sizes before they believe."""

import json
import os
import resource
import struct
import zipfile

import numpy as np
import pytest
import tifffile

from napari_deepretina.cli import main
from napari_deepretina.errors import one_line, printable

DEEP = "[" * 100_000 + "]" * 100_000
BIG = "1" * 5000


def coco(image=None, annotation=None, **content):
    told = {"id": 1, "file_name": "ok.tif", "height": 64, "width": 64, **(image or {})}
    shape = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 20, 1, 20, 20]], "iscrowd": 0}
    base = {"images": [told], "annotations": [{**shape, **(annotation or {})}]}
    return json.dumps({**base, "categories": [{"id": 1, "name": "nucleus"}], **content})


def counts(size, runs):
    return {"segmentation": {"size": size, "counts": runs}}


JSONS = {
    "deep": DEEP,
    "long number": coco().replace("64", BIG),
    "null": "null",
    "a number": "3",
    "wrong types": '{"images": {}, "annotations": 5}',
    "infinite": coco().replace('"height": 64', '"height": 1e400'),
    "a million squared": coco({"height": 10**6, "width": 10**6}),
    "height in words": coco({"height": "x"}),
    "no file name": coco({"file_name": None}),
    "runs beyond the image": coco(annotation=counts([64, 64], [10**18, 5])),
    "a mask of a million squared": coco(annotation=counts([10**6, 10**6], [0, 10**12])),
    "a category in words": coco(annotation={"category_id": "a"}),
    "a list as image": coco(annotation={"image_id": [1]}),
    "a score in words": coco(annotation={"score": "z"}),
    "no segmentation": coco(annotation={"segmentation": None}),
    "a half polygon": coco(annotation={"segmentation": [[1, 1, 2, 2]]}),
    "categories in words": coco(categories="x"),
}
TABLES = {
    "three numbers": "ImageId,EncodedPixels\na,1 2 3\n",
    "a long number": f"ImageId,EncodedPixels,Height,Width\na,{BIG} 2,4,4\n",
    "a million squared": "ImageId,EncodedPixels,Height,Width\na,1 1,1000000,1000000\n",
    "a long height": f"ImageId,EncodedPixels,Height,Width\na,1 1,{BIG},4\n",
    "one column": "ImageId\n",
    "zeros": "\0\0",
    "beyond the image": "ImageId,EncodedPixels,Height,Width\na,999999999999 5,4,4\n",
    "below zero": "ImageId,EncodedPixels,Height,Width\na,-1 5,4,4\n",
}
HEADERS = {
    "empty": {},
    "a list": [],
    "more than its tensors": {"name": "x", "architecture": {"box_units": 10**9}},
    "a wide body": {
        "name": "x", "architecture": {"backbone": "matterport_resnet101", "body_widths": [10**6] * 9},
    },
    "a diameter below zero": {"name": "x", "diameter": -1, "architecture": {}},
    "advice in words": {"name": "x", "postprocess": {"score": "a"}, "architecture": {}},
}  # fmt: skip
RECIPES = {
    "no stages": "name = 3",
    "steps below zero": '[[stages]]\nname = "a"\nsteps = -1\nlearning_rate = 1',
    "deep": "x = " + "[" * 5000,
    "a long number": f'name = "a"\n[[stages]]\nname = "a"\nlearning_rate = 1\nsteps = {BIG}',
    "stages of a number": 'name = "x"\nstages = [5]',
}


@pytest.fixture(autouse=True)
def _little_memory():
    """What is believed before it is checked would want more than this beyond what is in use."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2 * 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture
def refused(capsys):
    """Run a command that must end with exit status 2 and one sentence."""

    def run(*words, status=2):
        assert main([str(w) for w in words]) == status
        lines = capsys.readouterr().err.splitlines()
        if status:
            (line,) = lines
            assert line.startswith("napari-deepretina: ")
            assert len(line) < 700
            assert not [w for w in ("Traceback", "pydantic", "errors.py") if w in line]
            return line
        return ""

    return run


@pytest.mark.parametrize("kind", JSONS)
def test_json_of_any_kind(kind, tmp_path, tiny_weights, refused):
    path = tmp_path / "x.json"
    path.write_text(JSONS[kind])
    tifffile.imwrite(tmp_path / "ok.tif", np.zeros((64, 64), np.uint8))
    refused("evaluate", "--truth", path, "--pred", path, "--quiet")
    refused("train", "fine-tune", "--data", path, "--weights", tiny_weights, "--dry-run")
    refused("segment", "--replay", path, "--out", tmp_path / "o")
    refused("train", "fine-tune", "--data", tmp_path, "--split", path, "--out", tmp_path / "r")
    refused("segment", tmp_path / "ok.tif", "--out", tmp_path / "o", "--tta", path, "--weights", tiny_weights)


@pytest.mark.parametrize("kind", TABLES)
def test_run_lengths_of_any_kind(kind, tmp_path, refused):
    path = tmp_path / "x.csv"
    path.write_text(TABLES[kind])
    refused("evaluate", "--truth", path, "--pred", path)


@pytest.mark.parametrize("kind", [*HEADERS, "deep"])
def test_headers_of_weights_of_any_kind(kind, tmp_path, refused):
    told = DEEP if kind == "deep" else json.dumps(HEADERS[kind])
    header = json.dumps({"__metadata__": {"napari-deepretina": told}}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    tifffile.imwrite(tmp_path / "ok.tif", np.zeros((64, 64), np.uint8))
    refused("segment", tmp_path / "ok.tif", "--out", tmp_path / "o", "--weights", path)
    if "tensors" not in kind and "wide" not in kind:
        refused("weights", "info", path)


@pytest.mark.parametrize("kind", RECIPES)
def test_recipes_of_any_kind(kind, tmp_path, refused):
    path = tmp_path / "x.toml"
    path.write_text(RECIPES[kind])
    refused("recipes", "show", path)


@pytest.mark.parametrize("name", ["~nouser/x.tif", "a" * 300 + ".tif", "x\0y.tif", "a*b*c", "loop"])
def test_paths_of_any_kind(name, tmp_path, tiny_weights, refused, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.symlink("loop", "loop")
    refused("segment", name, "--out", tmp_path / "o", "--weights", tiny_weights)
    if "\0" not in name:
        refused("train", "fine-tune", "--data", name, "--weights", tiny_weights, "--dry-run")
        refused("evaluate", "--truth", name, "--pred", name)
        refused("weights", "info", name)


@pytest.mark.parametrize(
    "head", [b"II*\0", b"II*\0\xff\xff\xff\xff", b"\x89PNG\r\n\x1a\n", b"PK\3\4", b"", b"\xff\xd8\xff"]
)
@pytest.mark.parametrize("suffix", ["tif", "png", "zip", "jpg", "ome.tif", "webp"])
def test_beginnings_of_files(head, suffix, tmp_path, tiny_weights, refused):
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(head)
    refused("segment", path, "--out", tmp_path / "o", "--weights", tiny_weights, "--quiet")


@pytest.mark.parametrize("value", [0, 3, 77, 10**6, 2 * 10**9])
@pytest.mark.parametrize("tag", [256, 257, 258, 259, 262, 273, 277, 279, 339])
def test_tiff_files_that_lie(tag, value, tmp_path, tiny_weights, capsys):
    """Sides, samples, compression, offsets: refused, or read as what is really there."""
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, np.zeros((64, 64), np.uint8))
    content = bytearray(path.read_bytes())
    (first,) = struct.unpack("<I", content[4:8])
    (count,) = struct.unpack("<H", content[first : first + 2])
    for k in range(count):
        entry = first + 2 + 12 * k
        if struct.unpack("<H", content[entry : entry + 2])[0] == tag:
            content[entry + 2 : entry + 4] = struct.pack("<H", 4)
            content[entry + 8 : entry + 12] = struct.pack("<I", value)
    path.write_bytes(content)
    words = ["segment", str(path), "--out", str(tmp_path / "o"), "--weights", str(tiny_weights), "--quiet"]
    assert main(words) in (0, 2)
    assert len(capsys.readouterr().err.splitlines()) <= 1


def test_a_member_that_swells_is_not_unpacked(tmp_path, tiny_weights, refused, monkeypatch):
    monkeypatch.setattr("napari_deepretina.data.files.MOST_UNPACKED", 50_000_000)
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.tif", "w") as member:
        for _ in range(100):
            member.write(bytes(2**20))
    assert path.stat().st_size < 200_000
    told = refused("segment", path, "--out", tmp_path / "o", "--weights", tiny_weights, "--quiet")
    assert "unpacks to" in told


def test_names_cannot_move_the_cursor(tmp_path, tiny_weights, capsys):
    path = tmp_path / "a\x1b[2Jb\r\n.tif"
    path.write_bytes(b"nothing")
    assert main(["segment", str(path), "--out", str(tmp_path / "o"), "--weights", str(tiny_weights)]) == 2
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err
    assert "\r" not in captured.out + captured.err
    assert "\\x1b[2Jb" in captured.err
    assert printable("µ×\x00\n") == "µ×\\x00\n"
    assert one_line("a\nb" + "c" * 900).startswith("a bccc")
    assert len(one_line("c" * 900)) == 600


# ---- sizes and places that files declare ----


def small_zarr(path, shape, chunks):
    """An OME-Zarr of which no chunk is stored."""
    import zarr

    axes = [{"name": a} for a in "zyx"[-len(shape) :]]
    told = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}]}
    group = zarr.open_group(str(path), mode="w", zarr_format=3, attributes={"ome": told})
    group.create_array("0", shape=shape, chunks=chunks, dtype=np.uint8)
    return path


ZARRS = {
    "a billion planes": ((10**9, 64, 64), (1, 64, 64), "declares 1,000,000,000 parts"),
    "a billion planes in one part": ((10**9, 8, 8), (10**9, 8, 8), "1,000,000,000 planes"),
    "a plane of a billion squared": ((10**9, 10**9), (10**8, 10**8), "is not believed"),
}


@pytest.mark.parametrize("kind", ZARRS)
def test_a_zarr_that_declares_too_much(kind, tmp_path, tiny_weights, refused):
    shape, chunks, told = ZARRS[kind]
    path = small_zarr(tmp_path / "x.zarr", shape, chunks)
    assert told in refused("segment", path, "--out", tmp_path / "o", "--weights", tiny_weights, "--quiet")


def test_a_zarr_of_single_pixels_is_read(tmp_path, tiny_weights):
    path = small_zarr(tmp_path / "x.zarr", (40, 48), (1, 1))
    words = ["segment", str(path), "--out", str(tmp_path / "o"), "--weights", str(tiny_weights), "--quiet"]
    assert main(words) == 0
    assert tifffile.imread(tmp_path / "o" / "x.tif").shape == (40, 48)


def test_a_zarr_whose_image_lies_elsewhere(tmp_path, tiny_weights, refused):
    small_zarr(tmp_path / "other.zarr", (40, 48), (40, 48))
    path = small_zarr(tmp_path / "x.zarr", (40, 48), (40, 48))
    told = (path / "zarr.json").read_text()
    (path / "zarr.json").write_text(told.replace('"path": "0"', '"path": "../other.zarr/0"'))
    told = refused("segment", path, "--out", tmp_path / "o", "--weights", tiny_weights, "--quiet")
    assert "lies outside" in told


def hdf5(path, kind):
    import h5py

    with h5py.File(path, "w") as file:
        group = file.create_group("conv1")
        if kind == "unallocated":
            group.create_dataset("kernel:0", (10**6, 10**6), "f4")
        elif kind == "fill value":
            group.create_dataset("kernel:0", (10**6, 10**6), "f4", chunks=(8, 8), fillvalue=1.0)
        elif kind == "another file":
            group.create_dataset("kernel:0", (4, 4), "f4", external=[("/etc/hostname", 0, 64)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout((4, 4), "f4")
            layout[:] = h5py.VirtualSource("other.h5", "x", (4, 4))
            group.create_virtual_dataset("kernel:0", layout)
        else:
            file["conv1/kernel:0"] = h5py.ExternalLink("other.h5", "x") if kind == "link" else b"text"
    return path


@pytest.mark.parametrize("kind", ["unallocated", "fill value", "another file", "virtual", "link", "text"])
def test_hdf5_that_lies(kind, tmp_path, refused):
    told = refused("weights", "info", hdf5(tmp_path / "x.h5", kind))
    if kind in ("unallocated", "fill value"):
        assert "declares 4e+03 GB, and holds far less" in told
    if kind in ("another file", "virtual"):
        assert "lies in another file" in told
    refused("weights", "import", tmp_path / "x.h5", tmp_path / "y.safetensors")


SHAPES = {
    "corners far away": ({}, {"segmentation": [[1e8, 1e8, -1e8, 1e8, 3, 3]]}, "far outside any image"),
    "corners at the end of numbers": ({}, {"segmentation": [[1e308, 1, 2, 1e308, 3, 3]]}, "far outside"),
    "a category beyond 32 bits": ({}, {"category_id": 2**31}, "no possible number"),
    "an image outside": ({"file_name": "../../secret.tif"}, {}, "lies outside"),
    "an image at an absolute place": ({"file_name": "/etc/passwd.tif"}, {}, "lies outside"),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_coco_that_reaches_too_far(kind, tmp_path, tiny_weights, refused):
    image, annotation, told = SHAPES[kind]
    path = tmp_path / "set" / "x.json"
    path.parent.mkdir()
    path.write_text(coco(image, annotation))
    tifffile.imwrite(path.parent / "ok.tif", np.zeros((64, 64), np.uint8))
    tifffile.imwrite(tmp_path.parent / "secret.tif", np.zeros((64, 64), np.uint8))
    words = ["train", "fine-tune", "--data", path, "--weights", tiny_weights, "--device", "cpu"]
    assert told in refused(*words, "--out", tmp_path / "r", "--set", "stages.steps=1", "--set", "workers=0")


def test_a_hundred_thousand_categories(tmp_path, refused):
    path = tmp_path / "x.json"
    path.write_text(coco(categories=[{"id": k, "name": f"c{k}"} for k in range(1, 100_001)]))
    assert "100000 categories" in refused("evaluate", "--truth", path, "--pred", path)


def test_pixels_far_apart_in_a_large_image(tmp_path, refused):
    """Few rows, whose boxes together would hold 10¹² pixels."""
    path, side = tmp_path / "x.csv", 40_000
    rows = "".join(f"a,{k} 1 {side * side - k} 1,{side},{side}\n" for k in range(1, 1000))
    path.write_text("ImageId,EncodedPixels,Height,Width\n" + rows)
    assert "far-apart pixels" in refused("evaluate", "--truth", path, "--pred", path)


def test_a_large_image_in_a_small_file(tmp_path, tiny_weights, refused, monkeypatch):
    from PIL import Image

    Image.fromarray(np.zeros((9000, 9000), np.uint8)).save(tmp_path / "x.png")
    monkeypatch.setattr("napari_deepretina.intake.left", lambda: 50_000_000)
    monkeypatch.setattr("napari_deepretina.intake.SMALL", 1_000_000)
    told = refused("segment", tmp_path / "x.png", "--out", tmp_path / "o", "--weights", tiny_weights)
    assert "0.081 GB of memory, and 0.05 GB are free" in told


def test_tiff_pages_in_a_circle(tmp_path, tiny_weights, refused):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, np.zeros((64, 64), np.uint8))
    content = bytearray(path.read_bytes())
    (first,) = struct.unpack("<I", content[4:8])
    (count,) = struct.unpack("<H", content[first : first + 2])
    content[first + 2 + 12 * count : first + 6 + 12 * count] = struct.pack("<I", first)
    path.write_bytes(content)
    assert "in a circle" in refused("segment", path, "--out", tmp_path / "o", "--weights", tiny_weights)


def test_metadata_that_lie_are_left_out(tmp_path):
    from napari_deepretina.data.picture import read_picture

    image = np.zeros((64, 64), np.uint8)
    for value in ("nan", "-1", "inf", "0", "1e999", "words"):
        tifffile.imwrite(tmp_path / "x.ome.tif", image, metadata={"axes": "YX", "PhysicalSizeX": "123456789"})
        content = (tmp_path / "x.ome.tif").read_bytes()
        (tmp_path / "x.ome.tif").write_bytes(content.replace(b"123456789", value.ljust(9).encode()))
        assert read_picture(tmp_path / "x.ome.tif").pixel_size is None
    tifffile.imwrite(tmp_path / "y.ome.tif", image, ome=True)
    content = (tmp_path / "y.ome.tif").read_bytes()
    (tmp_path / "y.ome.tif").write_bytes(content.replace(b"</OME>", b"</EMO>"))
    assert read_picture(tmp_path / "y.ome.tif").height_width == (64, 64)


def test_weights_that_hold_no_numbers(tmp_path, tiny_weights, tiny_architecture, refused):
    from safetensors.torch import load_file, save_file

    from napari_deepretina.model.weights import read_info

    tifffile.imwrite(tmp_path / "ok.tif", np.zeros((64, 64), np.uint8))
    header = {"napari-deepretina": read_info(tiny_weights).model_dump_json()}
    for value, told in ((float("nan"), "infinite or not a number"), (0.0, "all zero")):
        state = {k: v * 0 + value if v.is_floating_point() else v for k, v in load_file(tiny_weights).items()}
        save_file(state, tmp_path / "x.safetensors", metadata=header)
        words = ["segment", tmp_path / "ok.tif", "--out", tmp_path / "o", "--weights"]
        assert told in refused(*words, tmp_path / "x.safetensors")
