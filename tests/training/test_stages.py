"""What recipes can ask of the loop, and how a run is steered and fails."""

import contextlib
import json
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tifffile
import torch

from napari_deepretina.cli import main
from napari_deepretina.data.augmentation import Augmentation
from napari_deepretina.data.crops import CropStream, Decoded
from napari_deepretina.data.shapes import ShapesDataset
from napari_deepretina.data.synthetic import SyntheticDataset
from napari_deepretina.errors import UserError
from napari_deepretina.inference.segment import segment
from napari_deepretina.lock import is_at_work
from napari_deepretina.model.architecture import Architecture
from napari_deepretina.model.header import WeightsInfo
from napari_deepretina.model.network import build
from napari_deepretina.model.weights import load_model
from napari_deepretina.training.asked import Asked
from napari_deepretina.training.checkpoint import load_checkpoint
from napari_deepretina.training.recipe import Recipe, Stage, load_recipe
from napari_deepretina.training.run import Plan, plan_training, split_data
from napari_deepretina.training.start import for_classes
from napari_deepretina.training.trainable import (
    choose_layers,
    mean_square_penalty,
    optimizer_of,
    set_modes,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore:.*tensorboard.*:DeprecationWarning"),
]


def stage(**values):
    base = {"name": "main", "steps": 4, "batch_size": 2, "crop": 64, "learning_rate": 1e-3}
    return Stage(**{**base, "regions_per_image": 16, **values})


def recipe_of(architecture, *stages, **values):
    base = {
        "name": "tiny", "architecture": architecture, "precision": "32-true", "workers": 0, "log_every": 1,
        "validate_every": 100, "checkpoint_every": 100, "stages": stages,
    }  # fmt: skip
    return Recipe(**base | values)


def data(n=4, seed=0):
    return SyntheticDataset(n, shape=(64, 64), count=4, diameter=18, seed=seed)


def run(recipe, out, train=None, start=None, **options):
    return Plan(recipe, train or data(), data(2, seed=9), start).run(out, device="cpu", **options)


def events(out, kind=None):
    lines = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return [e for e in lines if kind in (None, e["event"])]


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("layers", ["heads", "5+", "4+", "3+", "all"])
def test_only_the_chosen_layers_learn(tiny_architecture, tmp_path, layers):
    before = build(tiny_architecture, seed=0).state_dict()
    run(recipe_of(tiny_architecture, stage(steps=1, layers=layers)), tmp_path)
    after = load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["network"]
    moved = {
        name.split(".")[2]
        for name in before
        if name.startswith("backbone.body.") and not torch.equal(before[name], after[name])
    }
    frozen = {"heads": 4, "5+": 3, "4+": 2, "3+": 1, "all": 0}[layers]
    expected = {f"layer{i}" for i in range(1, 5) if i > frozen}
    expected |= {"conv1", "bn1"} if layers == "all" else set()
    assert moved == expected
    heads = [n for n in before if n.startswith("regions.") and n.endswith("weight")]
    assert any(not torch.equal(before[n], after[n]) for n in heads)


def test_frozen_batch_norm_keeps_its_statistics_and_trains_its_scale(tiny_architecture, tmp_path):
    before = build(tiny_architecture, seed=0).state_dict()
    run(recipe_of(tiny_architecture, stage(steps=2, batch_norm="frozen")), tmp_path)
    after = load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["network"]
    assert all(torch.equal(before[n], after[n]) for n in before if n.endswith("running_mean"))
    assert not torch.equal(before["backbone.body.bn1.weight"], after["backbone.body.bn1.weight"])


def test_accumulated_parts_give_the_gradient_of_the_whole(tiny_architecture, tmp_path):
    """The parts draw other regions, so losses are compared, not bits."""
    losses = {}
    for parts in (1, 2):
        out = tmp_path / str(parts)
        run(recipe_of(tiny_architecture, stage(steps=3, batch_norm="frozen", accumulate=parts)), out)
        losses[parts] = [e["loss"] for e in events(out, "train")]
    assert losses[1] == pytest.approx(losses[2], rel=0.1)


def test_matterports_decay(tiny_architecture):
    network = build(tiny_architecture, seed=0)
    expected = 0.0
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            continue
        for parameter in module.parameters(recurse=False):
            expected += (parameter**2).sum().item() / parameter.numel()
        assert name is not None
    assert mean_square_penalty(network, 1e-4).item() == pytest.approx(1e-4 * expected, rel=1e-5)
    groups = optimizer_of(stage(decay="mean-square"), network).param_groups
    assert {g["weight_decay"] for g in groups} == {0.0}


def test_modes_follow_the_stage(tiny_architecture):
    network = build(tiny_architecture, seed=0)
    choose_layers(network, "4+")
    set_modes(network, stage(layers="4+"))
    assert not network.backbone.body["layer2"].training
    assert network.backbone.body["layer3"].training
    set_modes(network, stage(batch_norm="frozen"))
    assert not any(m.training for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert network.proposals.training


def test_epochs_become_steps():
    assert stage(steps=0, epochs=3).resolved(9).steps == 15
    assert stage(steps=0, epochs=3, epoch_steps=332).resolved(9).steps == 996
    for bad in ({"epochs": 2}, {"steps": 0}, {"accumulate": 3}):
        with pytest.raises(ValueError, match=r"give either|equal parts"):
            stage(**bad)


def test_an_epoch_ends_with_a_validation_and_a_checkpoint(tmp_path, tiny_architecture):
    epochs = [stage(name=name, steps=0, epochs=n, epoch_steps=e) for name, n, e in (("a", 2, 2), ("b", 1, 3))]
    recipe = recipe_of(tiny_architecture, *epochs, validate_every=0, checkpoint_every=0)
    run(recipe, tmp_path / "run")
    assert [e["step"] for e in events(tmp_path / "run", "validation")] == [2, 4, 7]
    resolved = recipe.model_copy(update={"stages": tuple(s.resolved(0) for s in epochs)})
    assert [s for s in range(1, 8) if resolved.is_due(0, s)] == [2, 4, 7]
    assert [s for s in range(1, 8) if resolved.is_due(3, s)] == [3, 6]


def test_trained_weights_are_judged_before_they_are_changed(tmp_path, tiny_architecture):
    hopeless = stage(learning_rate=50.0, optimizer="sgd", clip_norm=1e6)
    network = build(tiny_architecture, seed=0)
    info = WeightsInfo(name="known", architecture=tiny_architecture, score={"dsb_score": 0.1})
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with contextlib.suppress(UserError):  # the loss may leave the finite
        run(recipe_of(tiny_architecture, hopeless), tmp_path / "run", start=(network, info))
    told = events(tmp_path / "run", "validation")
    assert told[0]["step"] == 0
    assert max(e["dsb_score"] for e in told) == told[0]["dsb_score"]
    kept = load_model(tmp_path / "run" / "weights.safetensors", "cpu").network.state_dict()
    for name, value in before.items():
        assert torch.allclose(kept[name].float(), value.float(), atol=2e-3), name


def test_the_three_steps_are_those_of_the_facts():
    for name in ("deep-retina", "deep-retina-published"):
        recipe = load_recipe(name)
        told = [(s.epochs, s.learning_rate, s.sampler, s.augmentation.aspect) for s in recipe.stages]
        assert told == [
            (30, 1e-3, "each", 1.3), (20, 1e-4, "each", 1.3), (25, 3.3e-5, "each", 1.3),
            (10, 3.3e-5, "size", 1.3), (30, 1e-5, "size", 1.3), (5, 3.3e-5, "size", 1.5),
        ]  # fmt: skip
        assert {s.epoch_steps for s in recipe.stages} == {332}
        published = name.endswith("published")
        assert recipe.stages[0].augmentation.flips
        assert recipe.stages[3].augmentation.flips != published
        assert {s.augmentation.corner for s in recipe.stages} == {"top-left" if published else "random"}


def test_several_stages_and_classes_from_data_to_segmentation(tiny_architecture, tmp_path):
    shapes = ShapesDataset(6, side=64)
    architecture = tiny_architecture.model_copy(update={"classes": shapes.class_names})
    more = stage(name="more", steps=2, optimizer="sgd")
    recipe = recipe_of(architecture, stage(steps=2, layers="heads"), more)
    weights = run(recipe, tmp_path, train=shapes)
    assert {e["stage"] for e in events(tmp_path, "train")} == {"main", "more"}
    model = load_model(weights)
    assert model.info.architecture.classes == ("circle", "square", "triangle")
    result = segment(shapes[0].image, model=model, score=0.0)
    assert set(result.features()["class"]) <= set(shapes.class_names)


def test_other_classes_keep_what_does_not_depend_on_them(tiny_architecture):
    network = build(tiny_architecture, seed=0)
    other = for_classes(network, ("a", "b"), seed=1)
    assert other.architecture.classes == ("a", "b")
    old, new = network.state_dict(), other.state_dict()
    assert torch.equal(old["backbone.body.conv1.weight"], new["backbone.body.conv1.weight"])
    assert new["regions.box_predictor.cls_score.weight"].shape[0] == 3


def test_a_run_is_paused_saved_and_stopped_by_files(tiny_architecture, tmp_path):
    recipe = recipe_of(tiny_architecture, stage(steps=100_000))
    worker = threading.Thread(target=run, args=(recipe, tmp_path))
    worker.start()
    try:
        wait_for(lambda: (tmp_path / "events.jsonl").exists() and events(tmp_path, "train"))
        assert is_at_work((tmp_path / "pid").read_text())
        (tmp_path / "pause").touch()
        wait_for(lambda: events(tmp_path, "pause"))
        count = len(events(tmp_path))
        time.sleep(0.5)
        assert len(events(tmp_path)) == count
        (tmp_path / "pause").unlink()
        wait_for(lambda: events(tmp_path, "go_on"))
        (tmp_path / "save").touch()
        wait_for(lambda: events(tmp_path, "validation"))
        wait_for(lambda: (tmp_path / "checkpoints" / "last.ckpt").exists())
    finally:
        (tmp_path / "stop").touch()
        worker.join(60)
    end = events(tmp_path)[-1]
    assert (end["event"], end["finished"]) == ("end", False)
    assert not (tmp_path / "pid").exists()
    assert (tmp_path / "weights.safetensors").exists()
    assert tifffile.imread(tmp_path / "sample" / "labels.tif").shape == (64, 64)
    told = events(tmp_path, "validation")[0]
    assert {"dsb_score", "loss", "loss_mask", "loss_objectness"} <= set(told)


class Failing(SyntheticDataset):
    """Images that stop being readable."""

    def __init__(self, error):
        super().__init__(4, shape=(64, 64), count=4, diameter=18)
        self._error, self._asked = error, 0

    def __getitem__(self, index):
        self._asked += 1
        if self._asked > 6:
            raise self._error
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("error", [UserError("x.png cannot be read"), OSError("gone")])
def test_an_image_lost_midway_ends_the_run_with_a_reason(tiny_architecture, tmp_path, error, workers):
    recipe = recipe_of(tiny_architecture, stage(steps=30), checkpoint_every=1, workers=workers)
    with pytest.raises(UserError, match="cannot be read") as caught:
        run(recipe, tmp_path, train=Failing(error))
    assert "Traceback" not in str(caught.value)
    assert events(tmp_path)[-1]["event"] == "error"
    assert not (tmp_path / "pid").exists()


def test_a_full_disk_ends_the_run_and_keeps_the_checkpoint(tiny_architecture, tmp_path, monkeypatch):
    recipe = recipe_of(tiny_architecture, stage(steps=4), checkpoint_every=2)
    real, written = __import__("os").replace, []

    def replace(source, target):
        written.append(str(target))
        if sum("last.ckpt" in w for w in written) > 1:
            raise OSError(28, "No space left on device")
        return real(source, target)

    monkeypatch.setattr("os.replace", replace)
    with pytest.raises(UserError, match="No space left"):
        run(recipe, tmp_path)
    assert load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["step"] == 2


def test_a_dry_run_tells_the_plan_and_writes_nothing(tmp_path, capsys):
    arguments = ["train", "fine-tune", "--data", "toy-shapes", "--out", str(tmp_path / "run"), "--dry-run"]
    small = ["--set", "main.crop=64", "--set", "main.batch_size=1", "--weights", "bundled", "--device", "cpu"]
    assert main([*arguments, *small]) == 0
    told = capsys.readouterr().out
    images = "180 to train on, 20 to validate"
    for part in ("fine-tune", "circle, square, triangle", images, "200 steps of 1", "GB"):
        assert part in told
    assert not (tmp_path / "run").exists()


def test_problems_of_recipe_data_and_folder_are_told_together(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    asked = Asked(recipe="from-scratch", data=[str(tmp_path / "nowhere")], overrides=["main.speed=3"])
    with pytest.raises(UserError) as caught:
        plan_training(asked, out=tmp_path)
    for part in ("speed", "does not exist", "holds a run already"):
        assert part in str(caught.value)


def test_weights_of_data_sets(tmp_path):
    for name in ("a", "b"):
        for i in range(3):
            for kind, array in (("images", data()[i].image), ("labels", data()[i].labels)):
                (tmp_path / name / kind).mkdir(parents=True, exist_ok=True)
                tifffile.imwrite(tmp_path / name / kind / f"{name}{i}.tif", array)
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    train, _ = split_data([a, f"{b}@3"], incomplete=[b])
    assert train.weights == [1, 1, 3, 3]
    assert [train[i].complete for i in range(4)] == [True, True, False, False]
    images = Decoded(train, Architecture())
    crops = CropStream(images, size=64, length=4, augmentation=Augmentation(), seed=0)
    assert sorted(crops.crop(k)[1].complete for k in range(4)) == [False, False, True, True]
    with pytest.raises(UserError, match="elsewhere is said to have unlabelled nuclei"):
        split_data([a], incomplete=["elsewhere"])


@pytest.mark.slow
def test_two_processes_learn_as_one(tiny_architecture, tiny_weights, tmp_path):
    """DDP over gloo: the loss curve of two processes is that of one with the joined batch."""
    from napari_deepretina.training.recipe import to_toml

    calm = {"optimizer": "sgd", "learning_rate": 1e-3, "clip_norm": 1.0}
    learning = stage(steps=6, batch_size=4, batch_norm="frozen", **calm)
    recipe = recipe_of(tiny_architecture, learning, seed=3)
    (tmp_path / "r.toml").write_text(to_toml(recipe))
    for i in range(8):
        sample = data(8)[i]
        for kind, array in (("images", sample.image), ("labels", sample.labels)):
            (tmp_path / "d" / kind).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(tmp_path / "d" / kind / f"{i}.tif", array)
    common = ["-m", "napari_deepretina", "train", str(tmp_path / "r.toml"), "--data", str(tmp_path / "d")]
    common += ["--weights", str(tiny_weights)]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *common]
    curves = {}
    here = ["--out", str(tmp_path / "one"), "--device", "cpu", "--devices", "1"]
    starts = {"two": [*common, "--devices", "2"], "run": torchrun}
    running = {}
    for name, start in starts.items():  # all at once: most of their time they start up
        command = [sys.executable, *start, "--out", str(tmp_path / name), "--device", "cpu"]
        running[name] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert main([*common[2:], *here]) == 0
    for process in running.values():
        told, _ = process.communicate(timeout=240)
        assert process.returncode == 0, told[-2000:]
    for name in ("one", *running):
        out = tmp_path / name
        curves[name] = np.array([e["loss"] for e in events(out, "train")])
        assert len(events(out, "end")) == 1
        assert (out / "weights.safetensors").exists()
    assert len(curves["one"]) == 6
    assert curves["two"] == pytest.approx(curves["one"], rel=0.01)
    assert curves["run"] == pytest.approx(curves["one"], rel=0.01)


def test_a_matterport_network_is_trained_judged_and_used(tmp_path):
    architecture = Architecture(
        backbone="matterport_resnet50", body_widths=(8, *(8, 16) * 4), fpn_channels=16, rpn_channels=16,
        box_units=16, mask_channels=8, classes=("circle", "square", "triangle"), short_side=64,
    )  # fmt: skip
    sgd = stage(batch_norm="frozen", optimizer="sgd", decay="mean-square", layers="4+")
    recipe = recipe_of(architecture, sgd, stage(name="all", batch_norm="frozen"))
    before = build(architecture, seed=0).state_dict()
    shapes = ShapesDataset(4, side=64)
    weights = Plan(recipe, shapes, shapes).run(tmp_path / "run", device="cpu")
    (told,) = events(tmp_path / "run", "validation")
    assert {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"} < set(told)
    model = load_model(weights, "cpu")
    after = model.network.state_dict()
    for name, value in before.items():  # statistics stay, scales are learnt
        if "running" in name:
            assert torch.equal(after[name], value.half().float()), name
    assert not torch.equal(after["layers.bn2a_branch2a.weight"], before["layers.bn2a_branch2a.weight"])
    found = segment(shapes[0].image, model=model, score=0.0, tta="flips", method="original")
    assert found.labels.shape == (64, 64)
    assert set(found.features()["class"]) <= {"circle", "square", "triangle"}


def test_layers_of_a_matterport_network_are_chosen_by_stage():
    architecture = Architecture(
        backbone="matterport_resnet50", body_widths=(8, *(8, 16) * 4), fpn_channels=16, rpn_channels=16,
        box_units=16, mask_channels=8,
    )  # fmt: skip
    network = build(architecture, seed=0)
    choose_layers(network, "4+")
    learnt = {n.split(".")[1] for n, p in network.named_parameters() if p.requires_grad}
    assert {"res4a_branch2a", "bn5c_branch2c", "fpn_p2", "mrcnn_mask"} <= learnt
    assert not any(n.startswith(("conv1", "bn_conv1", "res2", "bn2", "res3", "bn3")) for n in learnt)
