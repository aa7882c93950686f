"""A batch never dies of one file: it is skipped and told, the others are done, the summary is written."""

import csv
import io
import json
import os
import sys
import zipfile

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_deepretina.cli import main
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.inference import batch

IMAGE, _ = synthetic_nuclei((64, 72), 5, diameter=20, seed=3)


def png():
    buffer = io.BytesIO()
    Image.fromarray(IMAGE).save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture
def small(tiny_weights):
    return ["--weights", str(tiny_weights), "--device", "cpu", "--score", "0.9"]


def rows(out):
    with (out / "summary.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return [r["image"] for r in csv.DictReader(file)]


def bad_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("good.png", "encrypted.png", "deflate64.png", "damaged.png"):
            archive.writestr(name, png())
        archive.writestr("folder\\back.png", png())
    data = bytearray(path.read_bytes())
    for name, local, central, value in (
        (b"encrypted.png", 6, 8, 1),
        (b"deflate64.png", 8, 10, 9),
    ):
        at = data.find(name) - 30
        data[at + local : at + local + 2] = value.to_bytes(2, "little")
        at = data.rfind(name) - 46
        data[at + central : at + central + 2] = value.to_bytes(2, "little")
    at = data.find(b"damaged.png") + 120
    data[at : at + 40] = bytes(40)
    path.write_bytes(bytes(data))
    return path


def test_bad_members_of_an_archive(tmp_path, small, capsys):
    out = tmp_path / "out"
    assert main(["segment", str(bad_zip(tmp_path / "a.zip")), "--out", str(out), *small]) == 2
    told = capsys.readouterr()
    assert len(told.err.strip().splitlines()) == 1
    assert sorted(rows(out)) == ["back", "good"]
    skipped = json.loads((out / "run.json").read_text())["skipped"]
    assert sorted(os.path.basename(k) for k in skipped) == ["damaged.png", "deflate64.png", "encrypted.png"]
    for reason in skipped.values():
        assert "cannot be read" in reason


ODD = {
    "empty.png": b"",
    "cut.png": png()[:200],
    "text.tif": b"not an image",
    "text.czi": b"not an image",
    "bomb.gif": b"GIF89a" + b"\xff" * 20,
}


def test_odd_files_in_a_folder(tmp_path, small, capsys):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name, content in {**ODD, "good.png": png()}.items():
        (folder / name).write_bytes(content)
    tifffile.imwrite(folder / "unsure.tif", np.stack([IMAGE] * 3), photometric="minisblack")
    tifffile.imwrite(folder / "text-like.tif", np.zeros((4, 4), complex))
    assert main(["segment", str(folder), "--out", str(out), *small]) == 2
    assert rows(out) == ["good"]
    skipped = json.loads((out / "run.json").read_text())["skipped"]
    assert {os.path.basename(k) for k in skipped} == {*ODD, "unsure.tif", "text-like.tif"}
    assert "CYX or ZYX (--axes)" in next(v for k, v in skipped.items() if k.endswith("unsure.tif"))
    command = ["segment", str(folder / "unsure.tif"), "--out", str(tmp_path / "o2"), *small]
    assert main([*command, "--axes", "CYX"]) == 0
    assert (
        main(["segment", str(folder / "unsure.tif"), "--out", str(tmp_path / "o3"), *small, "--axes", "ZYX"])
        == 0
    )
    assert tifffile.imread(tmp_path / "o2" / "unsure.tif").shape == IMAGE.shape
    assert tifffile.imread(tmp_path / "o3" / "unsure.tif").shape == (3, *IMAGE.shape)


def test_nothing_done_is_a_summary_too(tmp_path, small):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"")
    assert main(["segment", str(tmp_path / "in"), "--out", str(tmp_path / "out"), *small]) == 2
    assert rows(tmp_path / "out") == []
    assert json.loads((tmp_path / "out" / "run.json").read_text())["images"] == {}


@pytest.mark.parametrize("beside", [False, True], ids=["apart", "beside"])
def test_long_names(tmp_path, small, beside):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in ("a" * 246, "ä" * 120, "b" * 30):
        (folder / f"{name}.png").write_bytes(png())
    where = ["--beside", "--out", str(out)] if beside else ["--out", str(out)]
    status = main(["segment", str(folder), *where, "--format", "labels,overlay", *small])
    assert status == 2  # the names of the results of one, or of two, would be too long
    assert "b" * 30 in rows(out)
    skipped = json.loads((out / "run.json").read_text())["skipped"]
    assert all("too long" in reason for reason in skipped.values())
    assert len(rows(out)) + len(skipped) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_no_text(tmp_path, small, monkeypatch):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in (b"caf\xe9.png", "細胞.png".encode(), b"plain.png", b"new\nline.png"):
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(png())
    formats = ["--format", "labels,rle,coco,features", "--overwrite"]
    for encoding in ("ascii", "utf-8", "cp437"):
        status, _ = on_console(
            encoding, monkeypatch, ["segment", str(folder), "--out", str(out), *formats, *small]
        )
        assert status == 0
        assert len(rows(out)) == 4


def on_console(encoding, monkeypatch, words):
    """Exit status of a command and what it printed, on a console of some encoding."""
    consoles = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    with monkeypatch.context() as changed:
        changed.setattr(sys, "stdout", consoles[0])
        changed.setattr(sys, "stderr", consoles[1])
        try:
            status = main(words)
        except SystemExit as end:
            status = end.code
        for console in consoles:
            console.flush()
    return status, [console.buffer.getvalue() for console in consoles]


@pytest.mark.parametrize("encoding", ["ascii", "cp437", "cp1252"])
def test_any_console_can_show_help_and_errors(encoding, monkeypatch):
    for words in (["--help"], ["segment", "--help"], ["train", "--help"]):
        status, (out, _) = on_console(encoding, monkeypatch, words)
        assert status == 0
        assert len(out) > 200
    status, (_, told) = on_console(encoding, monkeypatch, ["segment", "n\u00f6-\u7d30.png", "--out", "o"])
    assert status == 2
    assert b"does not exist" in told


def test_equal_names_in_different_folders(tmp_path, small, capsys):
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "a.png").write_bytes(png())
    out = tmp_path / "out"
    command = [
        "segment",
        str(tmp_path / "one"),
        str(tmp_path / "two"),
        "--out",
        str(out),
        "--format",
        "labels,coco",
    ]
    assert main([*command, *small]) == 0
    assert "is written as two_a" in capsys.readouterr().out
    assert rows(out) == ["a", "two_a"]
    assert (out / "two_a.tif").exists()
    names = [i["file_name"] for i in json.loads((out / "instances.json").read_text())["images"]]
    assert len(set(names)) == 2


def test_a_disk_that_refuses_one_image(tmp_path, small, monkeypatch):
    from napari_deepretina.errors import UserError
    from napari_deepretina.inference import results

    original = results.write_labels

    def refuse(labels, path, **options):
        if path.name == "b.tif":
            raise UserError(f"{path} cannot be written: no")
        original(labels, path, **options)

    monkeypatch.setattr(results, "write_labels", refuse)
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.png").write_bytes(png())
    assert main(["segment", str(folder), "--out", str(tmp_path / "out"), *small]) == 2
    assert rows(tmp_path / "out") == ["a", "c"]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_an_image_for_which_memory_is_short_is_skipped(error, tmp_path, small, capsys, monkeypatch):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name, side in (("a", 64), ("b", 200), ("c", 64)):
        tifffile.imwrite(folder / f"{name}.tif", np.zeros((side, side), np.uint8))
    original = batch.whole_images

    def greedy(settings, model, images):
        if images[0].shape == (200, 200):
            raise error
        return original(settings, model, images)

    monkeypatch.setattr(batch, "whole_images", greedy)
    assert main(["segment", str(folder), "--out", str(out), *small]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "there is not enough memory" in line
    assert rows(out) == ["a", "c"]
