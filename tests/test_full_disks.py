"""Disks that are full or fail: one sentence, what was there stays, nothing half-written, no crash."""

import functools
import json
import os
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import tifffile

from napari_deepretina.cli import main
from napari_deepretina.data.project import Project
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.document import Document, store
from napari_deepretina.errors import UserError
from napari_deepretina.export import tiff
from napari_deepretina.export.coco import write_coco
from napari_deepretina.export.features import write_features
from napari_deepretina.export.geojson import write_geojson
from napari_deepretina.export.rle_csv import write_rle_csv
from napari_deepretina.export.rois import write_rois
from napari_deepretina.export.tiff import write_image, write_labels, write_labels_zarr
from napari_deepretina.files import append_bytes, append_text, moved, write_text
from napari_deepretina.inference.journal import Entry, Journal, Ledger, Record
from napari_deepretina.inference.tile_store import TileStore
from napari_deepretina.instances import Instances, RawInstances, labels
from napari_deepretina.lock import sole_use
from napari_deepretina.postprocess import PostprocessSettings
from napari_deepretina.training.checkpoint import save_checkpoint
from tests.training.test_runs import nuclei

IMAGE, LABELS = synthetic_nuclei((64, 72), 5, diameter=20, seed=3)
FOUND = Instances.from_labels(LABELS)
LARGE = Instances.from_labels(np.kron(LABELS, np.ones((4, 4), np.int32)))


@contextmanager
def filling_at(size):
    """A disk on which no file can grow beyond a number of bytes, as one that is full refuses to."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def keras(path):
    from napari_deepretina.model.architecture import Architecture
    from napari_deepretina.model.matterport.keras_weights import export_keras
    from napari_deepretina.model.matterport.network import MatterportRCNN

    narrow = Architecture(
        backbone="matterport_resnet50", body_widths=(4, 4, 8, 4, 8, 4, 8, 4, 8), fpn_channels=8,
        rpn_channels=8, box_units=8, mask_channels=8,
    )  # fmt: skip
    export_keras(MatterportRCNN(narrow), path)


def weights(path):
    import torch

    from napari_deepretina.model.architecture import Architecture
    from napari_deepretina.model.header import WeightsInfo
    from napari_deepretina.model.weights import save_weights

    save_weights({"a": torch.zeros(2000)}, WeightsInfo(name="x", architecture=Architecture()), path)


def tiles(path):
    empty = np.zeros(9, np.int64)
    raw = RawInstances(
        boxes=np.zeros((9, 4), np.float32), scores=np.ones(9, np.float32), views=empty, tiles=empty,
        masks=np.zeros((9, 28, 28), np.float16), classes=empty, shape=(64, 64), view_count=1, thinned=0.0,
        fading=False,
    )  # fmt: skip
    TileStore(path.parent.parent, path.parent.name).write(int(path.stem), raw)


def bands(path):
    before, tiff.STREAMED_FROM = tiff.STREAMED_FROM, 1000
    try:
        write_labels(LARGE, path)
    finally:
        tiff.STREAMED_FROM = before


WRITERS = {
    "a.tif": lambda p: write_labels(LARGE, p),
    "size.tif": lambda p: write_labels(LABELS, p, pixel_size=(0.5, 0.5)),
    "bands.tif": bands,
    "picture.tif": lambda p: write_image(IMAGE, p),
    "picture.png": lambda p: write_image(IMAGE, p),
    "a.zarr": lambda p: write_labels_zarr(LABELS, p),
    "bands.zarr": lambda p: write_labels_zarr(LARGE, p),
    "rle.csv": lambda p: write_rle_csv([("a", FOUND)], p),
    "coco.json": lambda p: write_coco([("a", FOUND)], p),
    "a.geojson": lambda p: write_geojson(FOUND, p),
    "features.csv": lambda p: write_features([("a", {"label": range(500)})], p),
    "rois.zip": lambda p: write_rois(FOUND, p),
    "a.txt": lambda p: write_text(p, "x" * 2000),
    "a.nuclei": lambda p: store.save(Document(LABELS, PostprocessSettings(), {}), p),
    "a.safetensors": weights,
    "a.h5": keras,
    "last.ckpt": lambda p: save_checkpoint({"step": 3, "values": [1.0] * 500}, p),
    "tiles/key/000003.npz": tiles,
}
"""Whatever is written whole or not at all, by the name it gets."""


def there(folder):
    """Content of all files below a folder, but for what was made beside."""
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def standing(path):
    """The path, at which something of an earlier run lies."""
    inside = path / "zarr.json" if path.suffix == ".zarr" else path
    inside.parent.mkdir(parents=True, exist_ok=True)
    inside.write_text("of a person, or of an earlier run")
    return path


def written(write, path):
    """Bytes that a writer needs at most for one file."""
    write(path)
    files = [path] if path.is_file() else list(path.rglob("*"))
    return max(p.stat().st_size for p in files if p.is_file())


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_fills_leaves_what_was_there(name, tmp_path):
    write = WRITERS[name]
    most = written(write, tmp_path / "probe" / name)
    target = standing(tmp_path / "out" / name)
    before = there(tmp_path / "out")
    for size in sorted({0, 1, 100, most // 2, most - 1}):
        with (
            filling_at(size),
            pytest.raises(UserError, match=r"cannot be written: (File too large|the disk did not)"),
        ):
            write(target)
        assert there(tmp_path / "out") == before
    with filling_at(2 * most + 4096):
        write(target)
    assert there(tmp_path / "out") != before


@pytest.mark.parametrize("name", WRITERS)
def test_a_rename_that_fails_leaves_what_was_there(name, tmp_path, monkeypatch):
    target = standing(tmp_path / name)
    before = there(tmp_path)

    def fails(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("napari_deepretina.files.os.replace", fails)
        with pytest.raises(UserError, match="cannot be written: No space left on device"):
            WRITERS[name](target)
    assert there(tmp_path) == before


RECORD = Record("a", [Entry("a", FOUND, "a.tif")], {"label": [1]}, {"image": "a"}, {"nuclei": 5})
APPENDERS = {
    "text": lambda p: append_text(p, "x" * 2000),
    "bytes": lambda p: append_bytes(p, b"x" * 2000),
    "journal": lambda p: Journal(p.parent, "key").add(RECORD),
    "ledger": lambda p: Ledger(p.parent).claim([p.parent / f"{k}.tif" for k in range(99)]),
    "rename": lambda p: moved(p.parent / "no such file", p),
}


@pytest.mark.parametrize("name", APPENDERS)
@pytest.mark.parametrize("size", [0, 1, 700])
def test_what_is_added_to_fails_in_one_sentence(name, size, tmp_path):
    with filling_at(size), pytest.raises(UserError, match="cannot be written"):
        APPENDERS[name](tmp_path / "x")


def test_a_lock_whose_owner_cannot_be_noted_is_free_again(tmp_path):
    with filling_at(0), pytest.raises(UserError, match="cannot be written"), sole_use(tmp_path):
        pass
    with sole_use(tmp_path):
        assert (tmp_path / ".owner").exists()
    assert not (tmp_path / ".owner").exists()


def test_a_torn_journal_goes_on(tmp_path):
    journal = Journal(tmp_path, "key")
    journal.begin()
    with filling_at(300), pytest.raises(UserError, match="cannot be written"):
        journal.add(RECORD)
    assert journal.read() == {}
    journal.add(RECORD)
    assert journal.read()["a"].told == {"nuclei": 5}


def test_samples_are_whole_or_absent(tmp_path):
    project = Project(tmp_path / "project")
    project.add("one", IMAGE, LABELS)
    before = there(tmp_path)
    for size in (0, 100, 3000):
        with filling_at(size), pytest.raises(UserError, match="cannot be written"):
            project.add("two", IMAGE, LABELS)
    assert list(project.samples()) == ["one"]
    assert {k: v for k, v in there(tmp_path).items() if k in before} == before


def test_large_labels_take_their_room_first(monkeypatch):
    """Where a mapped file has no blocks on a full disk, the system kills the program that writes to it."""
    monkeypatch.setattr(labels, "IN_MEMORY", 1000)
    with filling_at(10_000), pytest.raises(UserError, match=r"the labels need .* GB in .*TMPDIR"):
        labels.room_for((100, 100))
    room = labels.room_for((100, 100))
    assert isinstance(room, np.memmap)
    room[:] = 1


def small_disk(tmp_path, size):
    """Words before a command that let it see a file system of its own, of `size` bytes, at tmp_path/disk."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f'mount -t tmpfs -o size={size} none {disk} && exec "$@"'
    words = ["unshare", "-rm", "sh", "-c", script, "sh"]
    if shutil.which("unshare") is None or subprocess.run([*words, "true"], capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    return disk, words


def test_labels_on_a_disk_that_is_really_full(tmp_path):
    disk, words = small_disk(tmp_path, 100_000)
    code = (
        "from napari_deepretina.instances import labels; from napari_deepretina.errors import UserError\n"
        "labels.IN_MEMORY = 1000\n"
        "try: labels.room_for((1000, 1000))\n"
        "except UserError as error: print(error)\n"
        "else: raise SystemExit('there was room')"
    )
    environment = {**os.environ, "TMPDIR": str(disk)}
    done = subprocess.run(
        [*words, sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "No space left on device" in done.stdout


# ---- commands ----


def refused(words, capsys):
    """The one line of a command that ends with exit status 2."""
    assert main([str(w) for w in words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("napari-deepretina: ")
    return line


@pytest.mark.parametrize("size", [0, 300, 2000, 20_000])
def test_training_on_a_full_disk(size, tmp_path, tiny_weights, capsys):
    data, out = nuclei(tmp_path / "d", 3), tmp_path / "run"
    words = ["train", "fine-tune", "--data", data, "--out", out, "--weights", tiny_weights, "--device", "cpu"]
    for change in (
        "stages.steps=4",
        "stages.crop=64",
        "stages.batch_size=1",
        "workers=0",
        "validate_every=2",
    ):
        words += ["--set", change]
    with filling_at(size):
        assert told_of_the_disk(refused(words, capsys))
    assert not list(out.rglob("*.part.*"))
    assert main([str(w) for w in words] + resumed(out)) == 0  # when there is room again


def told_of_the_disk(line):
    return "File too large" in line or "cannot be written" in line


def resumed(out):
    return ["--resume"] if (out / "checkpoints" / "last.ckpt").exists() else []


@pytest.mark.parametrize("size", [0, 100, 1000])
def test_a_folder_on_a_full_disk(size, tmp_path, tiny_weights, capsys):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for k in range(2):
        tifffile.imwrite(folder / f"{k}.tif", IMAGE)
    words = ["segment", folder, "--out", out, "--weights", tiny_weights, "--device", "cpu", "--score", 0.2]
    words += ["--format", "labels,coco"]
    with filling_at(size):
        assert told_of_the_disk(refused(words, capsys))
    assert not list(out.rglob("*.part.*"))
    assert main([str(w) for w in [*words, "--resume"]]) == 0
    assert tifffile.imread(out / "0.tif").shape == IMAGE.shape
    assert len(json.loads((out / "instances.json").read_text())["images"]) == 2


@pytest.fixture
def segmenting(tmp_path, tiny_weights):
    """Words of a command that segments one image, called a, into the folder out."""
    tifffile.imwrite(tmp_path / "a.tif", IMAGE)
    words = ["segment", tmp_path / "a.tif", "--out", tmp_path / "out"]
    return [*words, "--weights", tiny_weights, "--device", "cpu"]


@pytest.mark.parametrize("name", ["done.jsonl", "files.jsonl"])
def test_journals_that_are_folders(name, tmp_path, segmenting, capsys):
    (tmp_path / "out" / ".napari-deepretina" / name).mkdir(parents=True)
    for more in ([], ["--resume"], ["--overwrite"]):
        assert "Is a directory" in refused([*segmenting, *more], capsys)


@pytest.mark.parametrize("name", ["run.json", "summary.csv", "a.tif"])
def test_results_that_are_folders(name, tmp_path, segmenting, capsys):
    (tmp_path / "out" / name).mkdir(parents=True)
    assert "is there already" in refused(segmenting, capsys)


@pytest.mark.parametrize("name", ["events.jsonl", "run.json", "recipe.toml", "checkpoints", "last.ckpt"])
def test_records_of_a_run_that_are_something_else(name, tmp_path, tiny_weights, capsys):
    data, out = nuclei(tmp_path / "d", 2), tmp_path / "run"
    words = ["train", "fine-tune", "--data", data, "--out", out, "--weights", tiny_weights, "--device", "cpu"]
    if name == "checkpoints":
        out.mkdir()
        (out / name).write_text("a file")
    elif name == "last.ckpt":
        (out / "checkpoints" / name).mkdir(parents=True)
        words += ["--resume"]
    else:
        (out / name).mkdir(parents=True)
    refused([*words, "--set", "stages.steps=1", "--set", "stages.crop=64", "--set", "workers=0"], capsys)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no device that is always full")
@pytest.mark.parametrize("words", [["recipes", "list"], ["--help"]])
@pytest.mark.parametrize("options", [[], ["-u"]], ids=["buffered", "unbuffered"])
def test_output_that_nobody_takes(options, words):
    program = [sys.executable, *options, "-m", "napari_deepretina", *words]
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    run = functools.partial(subprocess.run, program, env=clean, stderr=subprocess.PIPE, text=True)
    with open("/dev/full", "w") as full:
        done = run(stdout=full)
    assert done.stderr == "napari-deepretina: No space left on device\n"
    assert done.returncode == 2
    read, write = os.pipe()
    os.close(read)
    done = run(stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
