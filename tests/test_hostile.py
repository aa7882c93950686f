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
