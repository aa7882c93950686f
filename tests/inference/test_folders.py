"""Folders: what is done is skipped, a crash costs one image, a run can be repeated."""

import csv
import json
import platform
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_deepretina.cli import main
from napari_deepretina.data.files import read_image
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.errors import UserError
from napari_deepretina.export import tiff
from napari_deepretina.inference import batch
from napari_deepretina.inference.batch import segment_files
from napari_deepretina.inference.engine import Engine, threads
from napari_deepretina.inference.results import Places
from napari_deepretina.inference.segment import segment
from napari_deepretina.inference.settings import SegmentSettings, make_settings
from napari_deepretina.inference.stacks import whole_images
from napari_deepretina.instances import Instances
from napari_deepretina.lock import sole_use

COUNT = 5


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "in"
    path.mkdir()
    for i in range(COUNT):
        image, _ = synthetic_nuclei((100, 120), 8, diameter=26, seed=i)
        Image.fromarray(image).save(path / f"f{i}.png")
    return path


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_summary_tells_of_each_image(folder, tmp_path):
    out = tmp_path / "out"
    assert main(["segment", str(folder), "--out", str(out)]) == 0
    for row in rows(out / "summary.csv"):
        labels = tifffile.imread(out / f"{row['image']}.tif")
        image = read_image(folder / f"{row['image']}.png").astype(float)
        areas = np.bincount(labels.ravel())[1:]
        assert int(row["nuclei"]) == labels.max() > 2
        assert float(row["area_mean"]) == pytest.approx(areas.mean(), abs=0.01)
        assert float(row["area_median"]) == np.median(areas)
        assert float(row["covered"]) == pytest.approx((labels > 0).mean(), abs=1e-5)
        assert float(row["intensity_nuclei"]) == pytest.approx(image[labels > 0].mean(), abs=0.01)
        assert float(row["intensity_background"]) == pytest.approx(image[labels == 0].mean(), abs=0.01)
    assert [r["image"] for r in rows(out / "summary.csv")] == [f"f{i}" for i in range(COUNT)]


def test_after_a_crash_only_the_rest_is_done(folder, tmp_path, monkeypatch, capsys):
    out, whole = tmp_path / "out", tmp_path / "whole"
    formats = ["--format", "labels,rle,coco,features,overlay", "--device", "cpu"]
    assert main(["segment", str(folder), "--out", str(whole), *formats]) == 0
    written = []
    original = batch.write_one

    def power_cut(source, *rest):
        if len(written) == 3:
            raise RuntimeError("power cut")
        written.append(source.name)
        return original(source, *rest)

    monkeypatch.setattr(batch, "write_one", power_cut)
    command = ["segment", str(folder), "--out", str(out), *formats]
    with pytest.raises(RuntimeError, match="power cut"):
        main(command)
    assert not (out / "run.json").exists()
    # the last line was torn in the midst: that image is done again
    journal = out / ".napari-deepretina" / "done.jsonl"
    journal.write_text(journal.read_text()[:-40])
    monkeypatch.setattr(
        batch, "write_one", lambda source, *r: written.append(source.name) or original(source, *r)
    )
    capsys.readouterr()
    assert main(command) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    assert "2 of 5 images were done before" in capsys.readouterr().out
    assert sorted(written) == sorted(["f0", "f1", "f2", "f3", "f4", written[2]])
    for name in ("submission.csv", "features.csv", "summary.csv"):
        assert (out / name).read_text() == (whole / name).read_text()
    assert json.loads((out / "instances.json").read_text()) == json.loads(
        (whole / "instances.json").read_text()
    )
    assert set(json.loads((out / "run.json").read_text())["images"]) == {f"f{i}" for i in range(COUNT)}
    # a new image joins, a result that was taken away comes back, all else stays
    Image.fromarray(synthetic_nuclei((90, 90), 6, diameter=26, seed=9)[0]).save(folder / "new.png")
    (out / "f2.tif").unlink()
    before = (out / "f1.tif").stat().st_mtime_ns
    written.clear()
    assert main([*command, "--resume"]) == 0
    assert sorted(written) == ["f2", "new"]
    assert (out / "f1.tif").stat().st_mtime_ns == before
    assert len(rows(out / "summary.csv")) == COUNT + 1
    written.clear()
    assert main([*command, "--resume"]) == 0
    assert written == []
    assert json.loads((out / "run.json").read_text())["weights"]["name"] == "nuclei"
    # results of other settings are not mixed in
    assert main([*command, "--resume", "--score", "0.5"]) == 2
    assert "other settings" in capsys.readouterr().err


def test_errors_are_listed_at_the_end(folder, tmp_path, capsys):
    (folder / "broken.png").write_bytes(b"\x89PNG and no more")
    assert main(["segment", str(folder), "--out", str(tmp_path / "o")]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == "1 were skipped:"
    assert lines[-1].startswith(f"  {folder}/broken.png: ")


def test_results_beside_their_images(folder, tmp_path):
    (tmp_path / "more").mkdir()
    shutil.copy(folder / "f0.png", tmp_path / "more" / "g.png")
    command = ["segment", str(folder), str(tmp_path / "more"), "--beside", "--format", "labels,overlay"]
    assert main(command) == 0
    assert tifffile.imread(tmp_path / "more" / "g_nuclei.tif").shape == (100, 120)
    assert (folder / "f1_nuclei.png").exists()
    assert len(rows(folder / "summary.csv")) == COUNT + 1
    # what lies there now is not taken for images
    assert main([*command, "--resume"]) == 0
    assert len(rows(folder / "summary.csv")) == COUNT + 1


def test_a_run_can_be_repeated(folder, tmp_path, monkeypatch, capsys):
    out, again = tmp_path / "out", tmp_path / "again"
    monkeypatch.chdir(tmp_path)
    command = [
        "segment",
        "in",
        "--out",
        str(out),
        "--score",
        "0.6",
        "--dilation",
        "1",
        "--format",
        "labels,rle",
    ]
    assert main(command) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["segment", "--replay", str(out / "run.json"), "--out", str(again)]) == 0
    for i in range(COUNT):
        assert np.array_equal(tifffile.imread(out / f"f{i}.tif"), tifffile.imread(again / f"f{i}.tif"))
    assert (out / "submission.csv").read_text() == (again / "submission.csv").read_text()
    one, two = (json.loads((o / "run.json").read_text()) for o in (out, again))
    # what auto came to is repeated, on whichever machine
    assert (one["settings"].pop("precision"), two["settings"].pop("precision")) == ("auto", "float32")
    assert one["precision"] == two["precision"] == "float32"
    assert one["settings"] == two["settings"]
    assert one["weights"] == two["weights"]
    one["weights"]["sha256"] = "0" * 64
    (out / "run.json").write_text(json.dumps(one))
    assert main(["segment", "--replay", str(out / "run.json"), "--out", str(tmp_path / "o3")]) == 2
    assert "made with other weights" in capsys.readouterr().err


def test_images_in_one_batch_are_as_alone(nuclei_model):
    images = [synthetic_nuclei((100, 120), 8, diameter=26, seed=i)[0] for i in range(3)]
    together = whole_images(make_settings(), nuclei_model, images)
    for image, one in zip(images, together, strict=True):
        alone = segment(image, model=nuclei_model)
        assert (one.labels != alone.labels).mean() < 1e-3
        assert np.allclose(one.instances.scores, alone.instances.scores, atol=1e-4)


def test_a_folder_goes_through_the_network_in_batches(folder, tmp_path, nuclei_model, monkeypatch):
    """As on a GPU: groups of one size; results as one by one."""
    seen = []

    class Spy:
        def submit(self, call, work, model, item):
            seen.append(len(item[1]))
            return pool.submit(call, work, model, item)

    Image.fromarray(synthetic_nuclei((700, 90), 8, diameter=26)[0]).save(folder / "f1b.png")
    with threads(nuclei_model) as engine:
        pool = engine.executor
        from contextlib import nullcontext

        spied = Engine(Spy(), nuclei_model, 4, batch=lambda _: 2)
        monkeypatch.setattr(batch, "threads", lambda model: nullcontext(spied))
        assert main(["segment", str(folder), "--out", str(tmp_path / "o"), "--device", "cpu"]) == 0
    assert seen == [2, 1, 2, 1]
    assert len(rows(tmp_path / "o" / "summary.csv")) == COUNT + 1


def test_many_labels_are_written_in_bands(tmp_path, monkeypatch):
    _, labels = synthetic_nuclei((300, 200), 60, diameter=20)
    instances = Instances.from_labels(labels)
    assert np.array_equal(instances.to_labels(slice(30, 95)), instances.to_labels()[30:95])
    monkeypatch.setattr(tiff, "_TILE", 64)
    monkeypatch.setattr(tiff, "STREAMED_FROM", 1000)
    tiff.write_labels(instances, tmp_path / "a.tif", pixel_size=(0.5, 0.5))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_bigtiff
        assert file.pages[0].is_tiled
        assert np.array_equal(file.asarray(), instances.to_labels())
    tiff.write_labels_zarr(instances, tmp_path / "a.zarr")
    tiff.write_labels_zarr(instances, tmp_path / "a.zarr")  # replaced as a whole
    import zarr

    root = zarr.open(str(tmp_path / "a.zarr"))
    assert np.array_equal(root["0"][:], instances.to_labels())
    assert root.attrs["ome"]["multiscales"][0]["axes"][0]["name"] == "y"


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_large_tiff_files_are_read_part_by_part(tmp_path, nuclei_model, monkeypatch, compression):
    from napari_deepretina.data import picture

    image, _ = synthetic_nuclei((900, 900), 150, diameter=26, seed=4)
    path = tmp_path / "large.tif"
    tifffile.imwrite(path, image, compression=compression, tile=(128, 128) if compression else None)
    monkeypatch.setattr(picture, "LAZY_BYTES", 1000)
    lazy = picture.read_picture(path)
    assert lazy.axes == "YX"
    assert isinstance(lazy.pixels, np.memmap) or hasattr(lazy.pixels, "dask")
    found = segment(lazy.plane(), model=nuclei_model, tile=256)
    assert np.array_equal(found.labels, segment(image, model=nuclei_model, tile=256).labels)


def test_an_image_in_tiles_goes_on_after_a_crash(tmp_path, monkeypatch, capsys):
    from napari_deepretina.inference import tiles

    image, _ = synthetic_nuclei((900, 900), 150, diameter=26, seed=4)
    tifffile.imwrite(tmp_path / "slide.tif", image)
    command = ["segment", str(tmp_path / "slide.tif"), "--out", str(tmp_path / "out"), "--tile", "256"]
    taken = []
    original = tiles._Run.take

    def cut(self, *rest):
        if len(taken) == 4:
            raise KeyboardInterrupt
        taken.append(1)
        return original(self, *rest)

    monkeypatch.setattr(tiles._Run, "take", cut)
    assert main(command) == 130
    monkeypatch.setattr(tiles._Run, "take", original)
    assert len(list((tmp_path / "out").glob(".napari-deepretina/tiles/*/*.npz"))) == 4
    assert main([*command, "--resume"]) == 0
    notes = json.loads((tmp_path / "out" / "run.json").read_text())["images"]["slide"]["notes"]
    assert "4 tiles were done before" in notes
    assert not (tmp_path / "out" / ".napari-deepretina" / "tiles").exists()


def test_resume_notices_an_image_that_was_replaced(tmp_path, tiny_weights, capsys):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in "abc":
        tifffile.imwrite(folder / f"{name}.tif", synthetic_nuclei((64, 72), 5, diameter=20, seed=1)[0])
    words = ["segment", str(folder), "--out", str(out), "--weights", str(tiny_weights), "--device", "cpu"]
    assert main(words) == 0
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("*.tif")}
    tifffile.imwrite(folder / "b.tif", synthetic_nuclei((80, 90), 9, diameter=20, seed=2)[0])
    capsys.readouterr()
    assert main([*words, "--resume"]) == 0
    assert "b is done anew: replaced since the run before" in capsys.readouterr().out
    after = {p.name: p.stat().st_mtime_ns for p in out.glob("*.tif")}
    assert {n for n in after if after[n] != before[n]} == {"b.tif"}
    assert tifffile.imread(out / "b.tif").shape == (80, 90)
    assert main([*words, "--resume"]) == 0
    assert "anew" not in capsys.readouterr().out


def test_one_process_at_a_time_in_a_folder_of_results(tmp_path, tiny_weights, capsys):
    tifffile.imwrite(tmp_path / "a.tif", synthetic_nuclei((64, 72), 5, diameter=20, seed=1)[0])
    out = tmp_path / "out"
    words = ["segment", str(tmp_path / "a.tif"), "--out", str(out), "--weights", str(tiny_weights)]
    code = (
        "import sys, pathlib; from napari_deepretina.lock import sole_use\n"
        "with sole_use(pathlib.Path(sys.argv[1])):\n"
        "    print('in', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(out / ".napari-deepretina")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "in\n"
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"process {holder.pid} on {platform.node()} works in {out}" in line
    assert not (out / "a.tif").exists()
    holder.kill()
    holder.communicate()
    assert (out / ".napari-deepretina" / ".owner").exists()  # it had no time to tidy up
    assert main(words) == 0
    with sole_use(out / ".napari-deepretina"), pytest.raises(UserError, match="another job of this program"):
        next(segment_files([], Places(out), SegmentSettings(weights=str(tiny_weights)), standing="overwrite"))
