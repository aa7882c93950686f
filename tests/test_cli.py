import io
import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_deepretina.cli import main
from napari_deepretina.data.files import read_image
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.export.tiff import write_image
from napari_deepretina.files import harmless


@pytest.fixture
def folder(tmp_path):
    """Two good images and an odd one."""
    path = tmp_path / "in"
    path.mkdir()
    for i in range(2):
        Image.fromarray(synthetic_nuclei((100, 120), 8, diameter=26, seed=i)[0]).save(path / f"f{i}.png")
    (path / "notes.txt").write_text("not an image")
    return path


def test_segment_writes_every_format(folder, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["segment", str(folder), "--out", str(out), "--format", "labels,rle,coco,rois,overlay"]
    assert main(arguments) == 0
    names = {p.name for p in out.iterdir() if not p.name.startswith(".")}
    assert names == {
        "summary.csv",
        "f0.tif",
        "f1.tif",
        "f0_rois.zip",
        "f1_rois.zip",
        "f0_overlay.png",
        "f1_overlay.png",
        "submission.csv",
        "instances.json",
        "run.json",
    }
    labels = tifffile.imread(out / "f0.tif")
    assert labels.dtype == np.int32
    assert labels.shape == (100, 120)
    run = json.loads((out / "run.json").read_text())
    assert run["images"]["f0"]["nuclei"] == labels.max() > 3
    assert len(run["weights"]["sha256"]) == 64
    assert "CPU" in run["device"] or "cuda" in run["device"]
    assert "nuclei" in capsys.readouterr().out
    # the three forms of the result score 1 against each other
    for kind in ("submission.csv", "instances.json"):
        assert (
            main(
                [
                    "evaluate",
                    "--truth",
                    str(out),
                    "--pred",
                    str(out / kind),
                    "--json",
                    str(tmp_path / "s.json"),
                ]
            )
            == 0
        )
        assert json.loads((tmp_path / "s.json").read_text())["dsb_score"] == 1
    # results are not replaced unless asked for
    assert main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0


def test_odd_files_are_skipped_told_and_counted(folder, tmp_path, capsys):
    (folder / "broken.png").write_bytes(b"\x89PNG and no more")
    (folder / "many.tif").write_bytes(b"")
    tifffile.imwrite(folder / "channels.tif", np.zeros((9, 9, 5), np.uint8), metadata={"axes": "YXC"})
    assert main(["segment", str(folder), "--out", str(tmp_path / "o")]) == 2
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert "3 of 5 images were skipped" in told.err
    assert told.out.count(": skipped, ") == 3
    run = json.loads((tmp_path / "o" / "run.json").read_text())
    assert set(run["images"]) == {"f0", "f1"}
    assert len(run["skipped"]) == 3


def test_a_part_of_the_split_is_segmented_alone(tmp_path, capsys):
    for kind in ("images", "labels"):
        (tmp_path / "set" / kind).mkdir(parents=True)
    for i in range(3):
        image, labels = synthetic_nuclei((100, 120), 8, diameter=26, seed=i)
        Image.fromarray(image).save(tmp_path / "set" / "images" / f"f{i}.png")
        tifffile.imwrite(tmp_path / "set" / "labels" / f"f{i}.tif", labels)
    segment = ["segment", str(tmp_path / "set"), "--part", "val", "--out", str(tmp_path / "out")]
    assert main(segment) == 2
    assert "no split.json" in capsys.readouterr().err
    split = tmp_path / "set_split.json"
    split.write_text(json.dumps({"train": ["f0", "f1"], "val": ["f2"]}))
    assert main(segment) == 0
    assert {p.name for p in (tmp_path / "out").glob("[!.]*")} == {"f2.tif", "summary.csv", "run.json"}
    assert main(["evaluate", "--truth", str(tmp_path / "set"), "--pred", str(tmp_path / "out")]) == 0
    split.write_text(json.dumps({"train": [], "val": ["elsewhere"]}))
    assert main([*segment, "--overwrite"]) == 2
    assert "none of the images" in capsys.readouterr().err
    alone = ["segment", str(tmp_path / "set" / "images" / "f0.png"), "--part", "val", "--out", str(tmp_path)]
    assert main(alone) == 2
    assert "is a single file" in capsys.readouterr().err


def test_a_submission_as_the_competition_takes_it(tmp_path):
    """Kaggle folder in, one CSV out: a row an object, an empty row for an image without any."""
    for name, image in (
        ("full", synthetic_nuclei((100, 120), 8, diameter=26)[0]),
        ("empty", np.zeros((64, 64))),
    ):
        (tmp_path / "stage2" / name / "images").mkdir(parents=True)
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / "stage2" / name / "images" / f"{name}.png")
    arguments = ["segment", str(tmp_path / "stage2"), "--out", str(tmp_path / "out"), "--format", "rle"]
    assert main([*arguments, "--tta", "deep-retina", "--method", "original"]) == 0
    assert {p.name for p in (tmp_path / "out").glob("[!.]*")} == {"submission.csv", "summary.csv", "run.json"}
    lines = (tmp_path / "out" / "submission.csv").read_text().splitlines()
    assert lines[0] == "ImageId,EncodedPixels"
    assert lines[1] == "empty,"
    assert len(lines) >= 2 + 5
    taken = set()
    for line in lines[2:]:
        name, runs = line.split(",")
        numbers = list(map(int, runs.split()))
        assert name == "full"
        pixels = {p for s, n in zip(numbers[::2], numbers[1::2], strict=True) for p in range(s, s + n)}
        assert not pixels & taken
        assert pixels <= set(range(1, 100 * 120 + 1))
        taken |= pixels
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (run["settings"]["tta"], run["settings"]["method"]) == ("deep-retina", "original")


def usage_cases(tmp_path):
    image = tmp_path / "i.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(image)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "a").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a" / "i.png")
    out = ["--out", str(tmp_path / "o")]
    return [
        (["segment", str(tmp_path / "no.png"), *out], "does not exist"),
        (["segment"], "give images to segment"),
        (["segment", str(image)], "give --out DIR"),
        (["segment", str(image), *out, "--resume", "--overwrite"], "give one of them"),
        (["segment", str(image), *out, "--axes", "ZYX"], "axes 'ZYX' do not fit"),
        (["segment", "--replay", str(image), *out], "is not a run.json"),
        (["segment", str(image), *out, "--scheduler", "tcp://127.0.0.1:1"], "no dask scheduler answers"),
        (["segment", str(tmp_path / "empty"), *out], "holds no images"),
        (["segment", str(image), *out, "--format", "png"], "--format png is not known"),
        (["segment", str(image), *out, "--score", "2"], "score='2'"),
        (["segment", str(image), *out, "--device", "abacus"], "unknown device"),
        (["segment", str(image), *out, "--weights", "none"], "no weights 'none'"),
        (["segment", str(image), "--out", str(image)], "cannot be written|is an input"),
        (["segment", str(image), "--out", str(tmp_path / "file")], "cannot be written"),
        (["evaluate", "--truth", str(tmp_path / "no"), "--pred", str(image)], "does not exist"),
        (["train", "nothing", "--data", str(tmp_path), *out], "no recipe 'nothing'"),
        (["train", "from-scratch", "--data", str(tmp_path / "empty"), *out], "no annotated images"),
        (["train", "from-scratch", "--data", ".", *out, "--set", "main.lr=1"], "main.*lr|stages.0.lr"),
        (["train", "from-scratch", "--data", ".", *out, "--resume"], "nothing to resume"),
        (["weights", "info", "nobody"], "no weights"),
        (["sample", "fluorescence", "--out", str(tmp_path / "x.doc")], "end the name with"),
    ]


@pytest.mark.parametrize("number", range(21))
def test_bad_input_is_one_line_and_status_2(tmp_path, capsys, number, monkeypatch):
    import re

    monkeypatch.setattr("napari_deepretina.inference.engine.PATIENCE", 0.5)
    arguments, says = usage_cases(tmp_path)[number]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert re.search(says, error)
    assert error.count("\n") == 1
    assert "Traceback" not in error


@pytest.mark.parametrize("arguments", [[], ["dance"], ["sample", "cat", "--out", "x.png"]])
def test_bad_usage_is_one_line_and_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_samples_weights_and_version(tmp_path, capsys):
    assert main(["sample", "tissue", "--out", str(tmp_path / "t.png")]) == 0
    assert read_image(tmp_path / "t.png").shape == (512, 512, 3)
    capsys.readouterr()
    assert main(["weights", "list"]) == 0
    assert "nuclei" in capsys.readouterr().out
    assert main(["weights", "info", "nuclei"]) == 0
    assert json.loads(capsys.readouterr().out)["architecture"]["classes"] == ["nucleus"]
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "napari_deepretina", "--help"], capture_output=True, text=True, check=True
    )
    assert "segment" in done.stdout


def save(folder, name, labels):
    folder.mkdir(exist_ok=True)
    tifffile.imwrite(folder / f"{name}.tif", labels.astype(np.int32))


def test_evaluate_tells_what_is_missing(tmp_path, capsys):
    labels = np.array([[1, 1], [0, 2]])
    save(tmp_path / "t", "a", labels)
    save(tmp_path / "t", "b", labels)
    save(tmp_path / "p", "a", labels)
    both = ["evaluate", "--truth", str(tmp_path / "t"), "--pred", str(tmp_path / "p")]
    out = tmp_path / "s.json"
    assert main([*both, "--json", str(out)]) == 0
    assert "1 images of the truth have no prediction" in capsys.readouterr().err
    assert json.loads(out.read_text())["dsb_score"] == 1
    assert main([*both, "--all", "--json", str(out)]) == 0
    assert json.loads(out.read_text())["dsb_score"] == 0.5
    save(tmp_path / "p", "stranger", labels)
    assert main(both) == 2
    assert "stranger" in capsys.readouterr().err
    (tmp_path / "p" / "stranger.tif").unlink()
    save(tmp_path / "p", "a", labels[:1])
    assert main(both) == 2
    assert "the prediction is (1, 2)" in capsys.readouterr().err


class Terminal(io.StringIO):
    """Standard error as a terminal."""

    def isatty(self):
        return True


def test_a_terminal_gets_a_bar_and_a_pipe_gets_none(tmp_path, tiny_weights, monkeypatch, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for k in range(2):
        write_image(synthetic_nuclei((64, 64), 4)[0], folder / f"{k}.tif")
    command = ["segment", str(folder), "--weights", str(tiny_weights), "--device", "cpu"]
    assert main([*command, "--out", str(tmp_path / "a")]) == 0
    piped = capsys.readouterr()
    assert "[2/2]" in piped.out
    assert "%" not in piped.err
    assert main([*command, "--out", str(tmp_path / "b"), "--quiet"]) == 0
    quiet = capsys.readouterr()
    assert (quiet.out, quiet.err) == ("", "")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main([*command, "--out", str(tmp_path / "c")]) == 0
    assert re.search(r"100%.*left", terminal.getvalue())
    assert "[2/2]" in capsys.readouterr().out


def test_help_shows_what_is_really_used(capsys):
    with pytest.raises(SystemExit):
        main(["segment", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "--fill-holes, --no-fill-holes" in told
    for option in ("--score SCORE", "--min-area MIN_AREA"):
        assert re.search(re.escape(option) + r"[^-]*default: what the weights advise", told)
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert all(name in told for name in ("deep-retina-published", "coco-r101", "fine-tune"))


def test_a_run_is_replayed_from_any_folder(tmp_path, tiny_weights, monkeypatch):
    write_image(synthetic_nuclei((64, 64), 4)[0], tmp_path / "im.tif")
    (tmp_path / "w.safetensors").write_bytes(tiny_weights.read_bytes())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    words = ["segment", "im.tif", "--out", "a", "--weights", "w.safetensors", "--device", "cpu", "--quiet"]
    assert main(words) == 0
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["segment", "--replay", "../a/run.json", "--out", "b", "--quiet"]) == 0
    assert (tmp_path / "elsewhere" / "b" / "im.tif").read_bytes() == (tmp_path / "a" / "im.tif").read_bytes()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_folder_cleanly_and_it_can_be_resumed(tmp_path, tiny_weights, number, status):
    folder = tmp_path / "in"
    folder.mkdir()
    for k in range(14):
        write_image(synthetic_nuclei((140, 140), 6, seed=k)[0], folder / f"{k:02}.tif")
    out = tmp_path / "out"
    command = ["-m", "napari_deepretina", "segment", str(folder), "--weights", str(tiny_weights)]
    command += ["--device", "cpu", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # a shell may have it ignored
    )  # fmt: skip
    for line in process.stdout:
        if line.startswith("[3/14]"):
            break
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert err.splitlines()[-1].endswith("what is done is kept")
    assert "Traceback" not in err
    done = len(list(out.glob("*.tif")))
    assert 3 <= done < 14
    assert not [p for p in out.rglob("*") if ".part." in p.name]
    assert main([*command[2:], "--resume", "--quiet"]) == 0
    assert len(list(out.glob("*.tif"))) == 14


def test_names_do_not_run_as_formulas_in_a_spreadsheet(tmp_path, tiny_weights):
    write_image(synthetic_nuclei((64, 64), 4)[0], tmp_path / "=1+2.tif")
    words = [
        "segment",
        str(tmp_path / "=1+2.tif"),
        "--out",
        str(tmp_path / "o"),
        "--weights",
        str(tiny_weights),
    ]
    assert main([*words, "--device", "cpu", "--score", "0", "--format", "features", "--quiet"]) == 0
    for name in ("features.csv", "summary.csv"):
        rows = (tmp_path / "o" / name).read_text().splitlines()[1:]
        assert rows
        assert all(row.startswith("'=1+2") for row in rows), name
    assert [harmless(c) for c in ("-3.5", -2, "@a", "a=b", "+1e3", "-x")] == [
        "-3.5",
        -2,
        "'@a",
        "a=b",
        "+1e3",
        "'-x",
    ]


def test_files_of_others_are_not_replaced(tmp_path, tiny_weights, capsys):
    image, labels = synthetic_nuclei((64, 64), 4)
    for name in ("truth", "pred"):
        (tmp_path / name).mkdir()
        tifffile.imwrite(tmp_path / name / "a.tif", labels)
    write_image(image, tmp_path / "im.png")
    (tmp_path / "seen").mkdir()
    evaluate = ["evaluate", "--truth", str(tmp_path / "truth"), "--pred", str(tmp_path / "pred"), "--quiet"]
    inspect = ["inspect", str(tmp_path / "im.png"), "--weights", str(tiny_weights), "--score", "0.1"]
    cases = [
        ([*evaluate, "--json"], tmp_path / "f.json", tmp_path / "f.json"),
        (["sample", "fluorescence", "--out"], tmp_path / "s.png", tmp_path / "s.png"),
        ([*inspect, "--out"], tmp_path / "seen", tmp_path / "seen" / "steps.png"),
    ]
    for words, out, file in cases:
        file.write_text("mine")
        assert main([*words, str(out)]) == 2
        assert "not replaced" in capsys.readouterr().err
        assert file.read_text() == "mine"
        file.unlink()
        for _ in range(2):  # its own, and again
            assert main([*words, str(out)]) == 0


def test_parts_of_killed_processes_are_swept_away(tmp_path, tiny_weights):
    write_image(synthetic_nuclei((64, 64), 4)[0], tmp_path / "im.tif")
    out = tmp_path / "o"
    out.mkdir()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for pid in (ended.pid, os.getpid()):
        (out / f".{pid}.part.x.tif").write_bytes(b"half")
    words = [
        "segment",
        str(tmp_path / "im.tif"),
        "--out",
        str(out),
        "--weights",
        str(tiny_weights),
        "--quiet",
    ]
    assert main([*words, "--device", "cpu"]) == 0
    assert [p.name for p in out.glob(".*.part.*")] == [f".{os.getpid()}.part.x.tif"]


def test_a_terminal_says_what_it_waits_for(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    words = ["segment", str(tmp_path / "missing.tif"), "--out", str(tmp_path / "out")]
    for more, said in (([], True), (["--quiet"], False)):
        monkeypatch.setattr(sys, "stderr", Terminal())
        assert main([*words, *more]) == 2
        told = sys.stderr.getvalue()
        assert ("loading PyTorch and the weights" in told) == said
        assert "missing.tif" in told.splitlines()[-1]
