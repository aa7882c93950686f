"""Runs as people start, resume, find and mix them, from the command line and from Python."""

import json
import random
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import tifffile

from napari_deepretina.cli import main
from napari_deepretina.data.sample import Sample
from napari_deepretina.data.shapes import ShapesDataset
from napari_deepretina.data.synthetic import SyntheticDataset, synthetic_nuclei
from napari_deepretina.errors import UserError
from napari_deepretina.lock import sole_use
from napari_deepretina.model.runs import find_run, known_runs
from napari_deepretina.model.weights import find, load_model, read_info
from napari_deepretina.training.asked import Asked, read_record
from napari_deepretina.training.checkpoint import load_checkpoint, save_checkpoint
from napari_deepretina.training.recipe import load_recipe, shipped_recipes
from napari_deepretina.training.run import plan_training, train

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore:.*tensorboard.*:DeprecationWarning"),
]
QUICK = [
    "main.steps=2", "main.crop=64", "main.batch_size=1", "main.regions_per_image=16", "workers=0",
    "log_every=1", "main.warmup=0", "precision=32-true",
]  # fmt: skip


def nuclei(folder, count=4, side=64, seed=0, name="{}"):
    for k in range(count):
        image, labels = synthetic_nuclei((side, side), 4, diameter=18, seed=seed + k)
        for kind, array in (("images", image), ("labels", labels)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(folder / kind / f"{name.format(k)}.tif", array)
    return folder


def command(data, out, weights, *more, recipe="fine-tune", changes=QUICK):
    words = ["train", recipe, "--data", str(data), "--out", str(out), "--weights", str(weights)]
    return [*words, "--device", "cpu", *(w for c in changes for w in ("--set", c)), *more]


@pytest.fixture
def run(tmp_path, tiny_weights):
    """A folder of data, and the folder of a short run on it."""
    data, out = nuclei(tmp_path / "d"), tmp_path / "runs" / "first"
    assert main(command(data, out, tiny_weights)) == 0
    return data, out


def told(capsys):
    return capsys.readouterr().out


def events(out, kind):
    lines = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return [e for e in lines if e["event"] == kind]


def test_everything_can_be_trained_on(tmp_path, tiny_weights, capsys):
    data, out = nuclei(tmp_path / "d"), tmp_path / "run"
    assert main(command(data, out, tiny_weights, "--val", "none")) == 0
    assert "validated on nothing" in told(capsys)
    assert (events(out, "start")[0]["train"], events(out, "start")[0]["val"]) == (4, 0)
    assert not events(out, "validation")
    info = read_info(out / "weights.safetensors")
    assert (info.steps, info.score) == (2, {})
    assert (out / "weights.safetensors").read_bytes() == (out / "last.safetensors").read_bytes()


def test_a_separate_validation_set(tmp_path, tiny_weights):
    data, val, out = nuclei(tmp_path / "d"), nuclei(tmp_path / "v", 2, seed=20), tmp_path / "run"
    assert main(command(data, out, tiny_weights, "--val", str(val))) == 0
    assert (events(out, "start")[0]["train"], events(out, "start")[0]["val"]) == (4, 2)
    assert events(out, "validation")


def test_it_is_said_when_nothing_was_better_than_the_start(tmp_path, tiny_weights, capsys):
    out = tmp_path / "run"
    assert main(command(nuclei(tmp_path / "d"), out, tiny_weights)) == 0
    words = told(capsys)
    assert events(out, "end")[0]["best_step"] == 0
    assert "no weights were better than those it started from (score 0.0000)" in words
    assert "last.safetensors" in words
    assert read_info(out / "weights.safetensors").steps == 0
    assert read_info(out / "last.safetensors").steps == 2


def test_a_gradient_that_is_no_number_ends_the_run_with_a_reason(tmp_path, tiny_weights, capsys):
    wild = [*QUICK, "main.learning_rate=1e30", "main.optimizer=sgd", "main.steps=9"]
    assert main(command(nuclei(tmp_path / "d"), tmp_path / "run", tiny_weights, changes=wild)) == 2
    assert "lower the learning rate" in capsys.readouterr().err


def test_weights_of_a_run_by_folder_name_and_last(run, tmp_path, tiny_weights, capsys):
    data, out = run
    assert find(out) == out / "weights.safetensors"
    assert find("first") == find("last") == out / "weights.safetensors"
    assert find_run("first") == out
    assert known_runs()[0] == out
    time.sleep(0.05)
    second = tmp_path / "runs" / "second"
    assert main(command(data, second, "first")) == 0
    assert find("last") == second / "weights.safetensors"
    assert read_record(second)[0].weights == "first"
    image = data / "images" / "0.tif"
    assert main(["segment", str(image), "--out", str(tmp_path / "o"), "--weights", "last", "--quiet"]) == 0
    capsys.readouterr()
    assert main(["weights", "info", str(out)]) == 0
    assert json.loads(told(capsys))["path"] == str(out / "weights.safetensors")
    with pytest.raises(UserError, match="holds no weights"):
        find(data)


def test_resuming_needs_the_run_alone(run, capsys):
    _, out = run
    assert main(["train", "--resume", str(out), "--set", "main.steps=4", "--device", "cpu"]) == 0
    words = told(capsys)
    assert "resuming with changes: main.steps 2 → 4" in words
    assert load_checkpoint(out / "checkpoints" / "last.ckpt")["step"] == 4
    assert main(["train", "--resume", "last", "--device", "cpu"]) == 0
    words = told(capsys)
    assert "resuming with changes" not in words
    assert "has done 4 steps, and the recipe has 4: nothing is left to do" in words
    assert main(["train", "--resume", str(out), "--set", "main.steps=3", "--device", "cpu"]) == 0
    assert "has done 4 steps, and the recipe has 3" in told(capsys)


def test_resuming_with_other_data_or_another_network_is_told(run, tmp_path, tiny_weights, capsys):
    data, out = run
    nuclei(data, 2, seed=50, name="more{}")
    resume = ["train", "--resume", str(out), "--set", "main.steps=3", "--device", "cpu"]
    assert main(resume) == 0
    assert re.search(r"train: 3 images → 5 \(other data\)", told(capsys))
    state = load_checkpoint(out / "checkpoints" / "last.ckpt")
    state["network"] = dict(list(state["network"].items())[1:])
    save_checkpoint(state, out / "checkpoints" / "last.ckpt")
    assert main([*resume[:4], "main.steps=9", "--device", "cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "of another network or optimiser" in line
    save_checkpoint({"step": 3}, out / "checkpoints" / "last.ckpt")
    assert main(resume) == 2
    assert "it lacks average" in capsys.readouterr().err
    assert main(["train", "--resume", str(data)]) == 2
    assert "is not the folder of a run" in capsys.readouterr().err
    assert main(["train", "--resume"]) == 2
    assert "say which run to resume" in capsys.readouterr().err


def test_data_of_other_classes_do_not_go_on_with_a_run(run, capsys):
    _, out = run
    assert main(["train", "--resume", str(out), "--data", "toy-shapes", "--set", "main.steps=4"]) == 2
    assert "the run tells nucleus apart, the data circle, square, triangle" in capsys.readouterr().err


def test_a_run_in_use_is_left_alone(run, capsys):
    _, out = run
    code = (
        "import sys, pathlib; from napari_deepretina.lock import sole_use\n"
        "with sole_use(pathlib.Path(sys.argv[1])):\n"
        "    print('in', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "in\n"
    assert main(["train", "--resume", str(out), "--device", "cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(r"process \d+ on \S+ works in ", line)
    with pytest.raises(UserError, match=rf"process {holder.pid} on \S+ works in"), sole_use(out):
        pass
    holder.kill()  # a dead owner's lock is free
    holder.communicate()
    with sole_use(out):
        pass


def test_stop_before_the_first_step_is_honoured(tmp_path, tiny_weights):
    data, out = nuclei(tmp_path / "d"), tmp_path / "run"
    out.mkdir()
    (out / "stop").touch()  # asked while the process starts: it is newer than that
    assert main(command(data, out, tiny_weights)) == 0
    assert events(out, "end")[0]["step"] == 0
    assert not (out / "stop").exists()
    assert main(["train", "--resume", str(out), "--device", "cpu"]) == 0
    assert events(out, "end")[1]["step"] == 2


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--device", "cuda"], "device 'cuda' is not available"),
        (["--device", "cuda:1"], "device 'cuda:1' is not available"),
        (["--device", "gpu"], "choose auto, cpu, cuda, cuda:N or mps"),
        (["--devices", "0"], "training on 0 devices is impossible"),
        (["--out", "file/run"], "file"),
        (["--weights", "nowhere"], "no weights 'nowhere'"),
        (["--val", "nowhere"], "nowhere"),
    ],
)
def test_every_failure_is_one_line(tmp_path, tiny_weights, capsys, monkeypatch, words, reason):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(command(nuclei(tmp_path / "d", 2), tmp_path / "run", tiny_weights, *words)) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("napari-deepretina")]
    assert reason in line


def test_what_is_missing_is_told_together(capsys):
    assert main(["train"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(part in line for part in ("a recipe (", "data (--data)", "the run's folder (--out)"))


def test_data_are_checked_before_training(tmp_path, tiny_weights):
    data = nuclei(tmp_path / "d", 6)
    for k in (1, 2):
        (data / "images" / f"{k}.tif").write_bytes(b"II*\0nothing")
    with pytest.raises(UserError) as caught:
        plan_training(Asked(recipe="fine-tune", data=[str(data)], val=["none"], weights=str(tiny_weights)))
    assert "2 images to train on cannot be used" in str(caught.value)
    empty = nuclei(tmp_path / "e", 3)
    for path in (empty / "labels").iterdir():
        tifffile.imwrite(path, np.zeros((64, 64), np.uint16))
    with pytest.raises(UserError, match=r"none of the 2 images .* are the masks missing"):
        plan_training(Asked(recipe="fine-tune", data=[str(empty)], weights=str(tiny_weights)))
    mixed = nuclei(nuclei(tmp_path / "m", 2), 2, side=96, name="large{}")
    tifffile.imwrite(mixed / "labels" / "0.tif", np.zeros((64, 64), np.uint16))
    asked = Asked(recipe="fine-tune", data=[str(mixed)], val=["none"], weights=str(tiny_weights))
    notes = " ".join(plan_training(asked).notes)
    assert "1 of 4 images to train on have no nuclei" in notes
    assert "2 sizes, from 64×64 to 96×96" in notes


def test_several_sets_with_other_classes_and_equal_names(tmp_path, tiny_weights):
    """Given one by one, with files of the same names; losses are limited to what each set tells."""
    one, other = nuclei(tmp_path / "one"), nuclei(tmp_path / "other", seed=9)
    words = command(one, tmp_path / "run", tiny_weights, "--data", str(other))
    assert main(words) == 0
    assert events(tmp_path / "run", "start")[0]["train"] == 6
    sets = [ShapesDataset(3, side=64), SyntheticDataset(3, shape=(64, 64), count=3)]
    weights = train(
        "fine-tune", sets, tmp_path / "mixed", weights=str(tiny_weights), changes=QUICK, device="cpu"
    )
    assert load_model(weights).info.architecture.classes == ("circle", "square", "triangle", "nucleus")


class Plain:
    """The smallest data set of one's own."""

    names = ("a", "b", "c")

    def __len__(self):
        return 3

    def __getitem__(self, index):
        image, labels = synthetic_nuclei((64, 64), 4, diameter=18, seed=index)
        return Sample(self.names[index], image, labels)


def test_ones_own_augmentation_is_called_with_image_and_labels(tmp_path, tiny_weights):
    seen = []

    def mirrored(image, labels):
        seen.append((image.shape, image.dtype, labels.shape, labels.dtype, random.random()))
        return image[:, ::-1], labels[:, ::-1]

    class Albumentations:
        def add_targets(self):
            pass

        def __call__(self, *, image, mask):
            seen.append("albumentations")
            return {"image": image, "mask": mask}

    class Imgaug:
        def augment_images(self):
            pass

        def __call__(self, *, image, segmentation_maps):
            assert segmentation_maps.shape == (1, 64, 64, 1)
            seen.append("imgaug")
            return image, segmentation_maps

    draws = []
    for number, hook in enumerate((mirrored, mirrored, Albumentations(), Imgaug())):
        train(
            "fine-tune", Plain(), tmp_path / f"run{number}", val="none", weights=str(tiny_weights),
            changes=QUICK, augment=hook, device="cpu",
        )  # fmt: skip
        draws.append([s[4] for s in seen if len(s) == 5])
    assert seen[0][:4] == ((64, 64, 3), np.uint8, (64, 64), np.int32)
    assert draws[0] == draws[1][2:]  # the same draws in every run
    assert {"albumentations", "imgaug"} <= {s for s in seen if isinstance(s, str)}
    for wrong, reason in (
        (lambda image, labels: (image[:32], labels), "must keep"),
        (lambda image, labels: 1 / 0, "failed: ZeroDivisionError"),
    ):
        with pytest.raises(UserError, match=reason):
            train(
                "fine-tune", Plain(), tmp_path / "bad", val="none", weights=str(tiny_weights), changes=QUICK,
                augment=wrong, device="cpu",
            )  # fmt: skip
        for path in (tmp_path / "bad").rglob("last.ckpt"):
            path.unlink()


def test_recipes_are_listed_and_shown(tmp_path, capsys):
    assert main(["recipes", "list"]) == 0
    words = told(capsys)
    assert all(name in words for name in shipped_recipes())
    for name in shipped_recipes():
        assert main(["recipes", "show", name]) == 0
        shown = told(capsys)
        (tmp_path / "r.toml").write_text(shown)
        assert load_recipe(str(tmp_path / "r.toml")) == load_recipe(name)
        first = shown.split("[[stages]]")[1].split("[stages.augmentation]")
        for part, keys in ((first[0], "learning_rate"), (first[1], "channel_shift")):
            lines = part.splitlines()
            place = next(k for k, line in enumerate(lines) if line.startswith(keys))
            assert lines[place - 1].startswith("#") or keys == "learning_rate"
    assert main(["recipes", "show", "nothing"]) == 2


def test_two_run_length_files_are_compared(tmp_path, capsys):
    head = "ImageId,EncodedPixels,Height,Width\n"
    (tmp_path / "truth.csv").write_text(head + "a,1 3,4,5\na,9 2,4,5\nb,,6,6\n")
    (tmp_path / "guess.csv").write_text(head + "a,1 3,4,5\nb,1 1,6,6\n")
    words = ["evaluate", "--truth", str(tmp_path / "truth.csv"), "--pred", str(tmp_path / "guess.csv")]
    assert main([*words, "--json", str(tmp_path / "f.json")]) == 0
    figures = json.loads((tmp_path / "f.json").read_text())
    assert (figures["true"], figures["predicted"]) == (2, 2)
    assert figures["per_image"]["a"]["ap"]["0.50"] == 0.5
    (tmp_path / "guess.csv").write_text("ImageId,EncodedPixels\na,1 3\nb,\n")
    assert main(words) == 0
    (tmp_path / "truth.csv").write_text("ImageId,EncodedPixels\na,1 3\nb,\n")
    assert main(words) == 2
    assert "columns Height and Width" in capsys.readouterr().err
