import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tifffile
import torch

from napari_deepretina.data.sample import Sample
from napari_deepretina.data.synthetic import SyntheticDataset
from napari_deepretina.errors import UserError
from napari_deepretina.model.architecture import Architecture
from napari_deepretina.model.weights import load_model, read_info
from napari_deepretina.training.average import Average
from napari_deepretina.training.checkpoint import load_checkpoint
from napari_deepretina.training.judge import typical_diameter
from napari_deepretina.training.recipe import Recipe, Stage
from napari_deepretina.training.run import Plan, split_data
from napari_deepretina.training.start import starting_point

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore:.*tensorboard.*:DeprecationWarning"),
]


@pytest.fixture
def recipe(tiny_architecture):
    return Recipe(
        name="tiny",
        architecture=tiny_architecture,
        precision="32-true",
        workers=0,
        log_every=2,
        validate_every=4,
        checkpoint_every=2,
        stages=(
            Stage(
                name="main", steps=8, batch_size=2, crop=64, learning_rate=2e-3, ema=0.9, regions_per_image=16
            ),
        ),
    )


def data(n=4, seed=0):
    return SyntheticDataset(n, shape=(64, 64), count=4, diameter=18, seed=seed)


def train(recipe, out, start=None, **options):
    return Plan(recipe, data(), data(2, seed=9), start).run(out, device="cpu", **options)


def events(out):
    return [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]


def test_a_run_leaves_weights_events_recipe_and_checkpoint(recipe, tmp_path):
    weights = train(recipe, tmp_path / "run")
    info = read_info(weights)
    assert info.architecture == recipe.architecture
    assert set(info.score) == {"dsb_score", "f1", "ap_50", "ap_75"}
    assert info.steps in (4, 8)
    assert load_model(weights).network is not None
    told = events(tmp_path / "run")
    assert [e["event"] for e in told] == [
        "start",
        "train",
        "train",
        "validation",
        "train",
        "train",
        "validation",
        "end",
    ]
    assert told[1]["loss"] > 0
    assert told[-1]["finished"] is True
    assert (tmp_path / "run" / "recipe.toml").exists()
    assert list((tmp_path / "run").glob("events.out.tfevents*"))
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["step"] == 8


def test_resuming_gives_the_weights_of_an_uninterrupted_run(recipe, tmp_path):
    stage = recipe.stages[0]
    half = recipe.model_copy(update={"stages": (stage.model_copy(update={"schedule": "constant"}),)})
    train(half, tmp_path / "reference")

    class Interrupted(SyntheticDataset):
        """Asks the run to stop while it is under way, as a person would."""

        def __getitem__(self, index):
            self.read = getattr(self, "read", 0) + 1
            if self.read == 7:  # the first four reads only measure the nuclei
                (tmp_path / "parts" / "stop").touch()
            return super().__getitem__(index)

    first = Interrupted(4, shape=(64, 64), count=4, diameter=18, seed=0)
    Plan(half, first, data(2, seed=9)).run(tmp_path / "parts", device="cpu")
    assert 0 < events(tmp_path / "parts")[-1]["step"] < 8
    assert events(tmp_path / "parts")[-1]["finished"] is False
    train(half, tmp_path / "parts", resume=True)
    one, other = (load_checkpoint(tmp_path / n / "checkpoints" / "last.ckpt") for n in ("reference", "parts"))
    assert one["step"] == other["step"] == 8
    for part in ("network", "average"):
        for name, value in one[part].items():
            assert torch.equal(value, other[part][name]), (part, name)


def test_a_killed_run_resumes_from_its_last_checkpoint(tmp_path, recipe):
    folder = tmp_path / "data"
    for i in range(4):
        sample = data()[i]
        for kind, array in (("images", sample.image), ("labels", sample.labels)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(folder / kind / f"{i}.tif", array)
    from napari_deepretina.training.recipe import to_toml

    stage = recipe.stages[0].model_copy(update={"steps": 100_000, "schedule": "constant"})
    long = recipe.model_copy(update={"stages": (stage,), "validate_every": 100_000})
    (tmp_path / "long.toml").write_text(to_toml(long))
    command = [
        sys.executable,
        "-m",
        "napari_deepretina",
        "train",
        str(tmp_path / "long.toml"),
        "--data",
        str(folder),
        "--out",
        str(tmp_path / "run"),
        "--device",
        "cpu",
    ]
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"

    def run_until_saved(extra, then, since):
        process = subprocess.Popen([*command, *extra], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        end = time.monotonic() + 120
        while not (checkpoint.exists() and checkpoint.stat().st_mtime > since):
            assert process.poll() is None, process.stdout.read().decode()
            assert time.monotonic() < end
            time.sleep(0.1)
        process.send_signal(then)
        process.communicate(timeout=120)
        return process.returncode

    run_until_saved([], signal.SIGKILL, 0)
    killed_at = load_checkpoint(checkpoint)["step"]
    assert run_until_saved(["--resume"], signal.SIGTERM, checkpoint.stat().st_mtime) == 0
    assert load_checkpoint(checkpoint)["step"] > killed_at
    told = events(tmp_path / "run")
    assert told[-1]["event"] == "end"
    assert told[-1]["finished"] is False
    assert (tmp_path / "run" / "weights.safetensors").exists()  # asked to stop, it judged what it had


def test_a_loss_that_is_no_number_ends_the_run_with_a_reason(recipe, tmp_path):
    stage = recipe.stages[0].model_copy(update={"learning_rate": 1e30, "optimizer": "sgd", "steps": 50})
    with pytest.raises(UserError, match=r"loss became .* lower the learning rate"):
        train(recipe.model_copy(update={"stages": (stage,)}), tmp_path)
    assert events(tmp_path)[-1]["event"] == "error"


def test_starting_points(recipe, tmp_path, tiny_weights, monkeypatch):
    assert starting_point("random", recipe) is None
    network, info = starting_point(str(tiny_weights), recipe)
    assert info.name == "tiny"
    weights = train(recipe, tmp_path, start=(network, info))
    assert read_info(weights).diameter == info.diameter
    from torchvision.models import ResNet18_Weights, resnet18

    expected = resnet18(weights=None).state_dict()
    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", lambda self, **_: dict(expected))
    with pytest.raises(UserError, match=r"resnet18 of 0\.125 times its width; use width 1"):
        starting_point("imagenet", recipe)
    wide = recipe.architecture.model_copy(update={"width": 1.0})
    recipe = recipe.model_copy(update={"architecture": wide})
    started, _ = starting_point("imagenet", recipe)
    assert torch.equal(started.backbone.body.conv1.weight, expected["conv1.weight"])

    def offline(self, **_):
        raise OSError("no route to host")

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", offline)
    with pytest.raises(UserError, match="could not be fetched"):
        starting_point("imagenet", recipe)


def test_data_are_split_by_file_or_at_random(tmp_path):
    for i in range(20):
        sample = data(20)[i]
        for kind, array in (("images", sample.image), ("labels", sample.labels)):
            (tmp_path / "d" / kind).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(tmp_path / "d" / kind / f"{i:02}.tif", array)
    train_part, val_part = split_data([str(tmp_path / "d")])
    assert (len(train_part), len(val_part)) == (18, 2)
    assert not set(train_part.names) & set(val_part.names)
    (tmp_path / "s.json").write_text(json.dumps({"train": ["03", "05"], "val": ["01"]}))
    train_part, val_part = split_data([str(tmp_path / "d")], str(tmp_path / "s.json"))
    assert train_part.names == ["03", "05"]
    assert val_part[0].name == "01"


def test_the_average_follows_and_forgets_its_start(tiny_architecture):
    from napari_deepretina.model.network import build

    network = build(tiny_architecture, seed=0)
    average, plain = Average(network, 0.9), Average(network, 0.0)
    for parameter in network.parameters():
        torch.nn.init.constant_(parameter, 1.0)
    for _ in range(200):
        average.update(network)
        plain.update(network)
    for name, value in network.state_dict().items():
        assert torch.allclose(average.network.state_dict()[name].float(), value.float(), atol=1e-4), name
        assert torch.equal(plain.network.state_dict()[name], value), name


def test_typical_diameter():
    class Discs:
        names = ("a",)

        def __len__(self):
            return 1

        def __getitem__(self, index):
            y, x = np.mgrid[:256, :256]
            labels = np.zeros((256, 256), np.int32)
            labels[np.hypot(y - 60, x - 60) < 10] = 1
            labels[np.hypot(y - 160, x - 160) < 10] = 2
            return Sample("a", labels, labels)

    assert typical_diameter(Discs(), Architecture(short_side=512)) == pytest.approx(40, abs=1)
    assert typical_diameter(Discs(), Architecture(short_side=128)) == pytest.approx(20, abs=1)
