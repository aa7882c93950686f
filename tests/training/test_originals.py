"""The originals' recipes, trained as their users would."""

import json

import numpy as np
import pytest
import tifffile
import torch
from skimage.transform import resize

from napari_deepretina.cli import main
from napari_deepretina.data.sample import Sample
from napari_deepretina.data.shapes import ShapesDataset
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.errors import UserError
from napari_deepretina.model.architecture import Architecture
from napari_deepretina.model.matterport.coco_names import COCO_NAMES
from napari_deepretina.model.matterport.keras_weights import export_keras, import_keras
from napari_deepretina.model.matterport.network import MatterportRCNN
from napari_deepretina.model.network import build
from napari_deepretina.model.published import fill_from_torchvision, start_from_published
from napari_deepretina.model.weights import load_model, read_info
from napari_deepretina.training.asked import Asked
from napari_deepretina.training.recipe import load_recipe
from napari_deepretina.training.run import plan_training, train
from napari_deepretina.training.start import starting_point

from ..model.matterport.conftest import original  # noqa: F401

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore:.*tensorboard.*:DeprecationWarning"),
]
NAMES = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask")
STILL = [
    f"stages.augmentation.{key}={value}"
    for key, value in (
        ("aspect", 1), ("enlarge", 1), ("zoom", 1), ("rotation", 0), ("channel_shift", 0), ("flips", "false"),
    )
]  # fmt: skip


def narrow(classes=("nucleus",), backbone="matterport_resnet101"):
    return Architecture(
        backbone=backbone, body_widths=(4, *(4, 8) * 4), fpn_channels=8, rpn_channels=8, box_units=8,
        mask_channels=8, classes=classes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def coco_file(tmp_path_factory):
    """A Keras file with COCO's 80 classes in a narrow network."""
    path = tmp_path_factory.mktemp("keras") / "mask_rcnn_coco.h5"
    export_keras(build(narrow(COCO_NAMES), seed=3), path)
    return path


def nuclei(folder, count=3, side=96):
    for k in range(count):
        image, labels = synthetic_nuclei((side, side), 8, diameter=16, seed=k)
        for kind, array in (("images", image), ("labels", labels)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(folder / kind / f"{k}.tif", array)
    return folder


def events(out, kind):
    lines = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return [e for e in lines if e["event"] == kind]


SHORT = [
    "stages.epoch_steps=1", "stages.epochs=1", "stages.crop=64", "stages.regions_per_image=16", "workers=0",
    "log_every=1",
]  # fmt: skip


def options(changes):
    return [word for change in changes for word in ("--set", change)]


@pytest.mark.parametrize("name", ["deep-retina", "deep-retina-published", "coco-r101"])
def test_recipes_carry_the_originals_network_and_start(name):
    recipe = load_recipe(name)
    assert recipe.weights == "coco"
    assert recipe.keep_epochs == "all"
    architecture = recipe.architecture
    assert architecture.backbone == "matterport_resnet101"
    assert (MatterportRCNN.before_nms, MatterportRCNN.training_proposals) == (6000, 2000)
    if name != "coco-r101":
        assert (architecture.anchor_sizes, architecture.short_side) == ((8, 16, 32, 64, 128), 512)
        assert architecture.resize == "pad64"
        assert {s.regions_per_image for s in recipe.stages} == {600}


def test_deep_retina_trains_from_coco_weights(tmp_path, coco_file, monkeypatch, capsys):
    """By default, with the file in its place; what ran stands in the run's folder."""
    from napari_deepretina.model import published

    monkeypatch.setattr(published, "fetch", lambda *_: coco_file)
    monkeypatch.setattr(
        "napari_deepretina.training.start.build", lambda a, seed: build(narrow(a.classes).model_copy(
            update={"short_side": a.short_side, "anchor_sizes": a.anchor_sizes}), seed=seed)
    )  # fmt: skip
    out = tmp_path / "run"
    command = ["train", "deep-retina", "--data", str(nuclei(tmp_path / "d")), "--out", str(out)]
    assert main([*command, "--device", "cpu", *options(SHORT)]) == 0
    told = capsys.readouterr().out
    start = events(out, "start")[0]
    assert start["network"] == "matterport_resnet101"
    assert start["normalisation"] == "RGB 0-255 minus (123.7, 116.8, 103.9)"
    assert start["weights"] == "coco"
    assert "matterport_resnet101" in told
    recipe = load_recipe(str(out / "recipe.toml"))
    assert recipe.architecture.backbone == "matterport_resnet101"
    assert recipe.weights == "coco"
    epochs = sorted(p.name for p in (out / "checkpoints").glob("epoch-*"))
    assert epochs == [f"epoch-{k:04d}.safetensors" for k in range(1, 7)]
    assert read_info(out / "last.safetensors").steps == 6
    assert read_info(out / "checkpoints" / "epoch-0002.safetensors").steps == 2
    info = load_model(out).info
    assert info.normalisation.startswith("RGB")
    first = events(out, "train")[0]
    assert 0 < first["loss"] < 500  # from random weights it was 83,670


def test_output_layers_are_kept_only_for_the_same_classes(coco_file):
    recipe = load_recipe("coco-r101")
    same, info = starting_point(str(coco_file), recipe, COCO_NAMES)
    whole = import_keras(coco_file).network.state_dict()
    assert all(torch.equal(v, whole[k]) for k, v in same.state_dict().items())
    assert info.architecture.anchor_sizes == recipe.architecture.anchor_sizes
    other, _ = starting_point(str(coco_file), load_recipe("deep-retina"), ("nucleus",))
    assert other.architecture.anchor_sizes == (8, 16, 32, 64, 128)
    assert other.layers["mrcnn_mask"].weight.shape[0] == 2
    assert torch.equal(other.state_dict()["layers.conv1.weight"], whole["layers.conv1.weight"])


def test_the_published_coco_start_keeps_its_output_layers_for_coco(coco_file, monkeypatch):
    from napari_deepretina.model import published

    monkeypatch.setattr(published, "fetch", lambda *_: coco_file)
    for classes, kept in ((COCO_NAMES, True), (("nucleus",), False)):
        network = build(narrow(classes), seed=9)
        before = network.layers["mrcnn_class_logits"].weight.clone()
        start_from_published("coco", network)
        assert torch.equal(before, network.layers["mrcnn_class_logits"].weight) != kept


def test_torchvisions_91_rows_become_cocos_80_classes():
    architecture = Architecture(backbone="resnet50", classes=COCO_NAMES)
    network = build(architecture, seed=0)
    weight, boxes = torch.arange(91.0)[:, None].expand(91, 1024), torch.arange(364.0)
    where = "roi_heads.box_predictor"
    state = {f"{where}.cls_score.weight": weight, f"{where}.bbox_pred.bias": boxes}
    fill_from_torchvision(network, state)
    rows = network.regions.box_predictor.cls_score.weight[:, 0].tolist()
    assert rows[:14] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14]
    assert (len(rows), rows[-1]) == (81, 90)
    assert network.regions.box_predictor.bbox_pred.bias[-4:].tolist() == [360, 361, 362, 363]


def test_a_start_that_makes_no_sense_is_refused(tmp_path, capsys):
    data = str(nuclei(tmp_path / "d"))
    cases = {
        "deep-retina": (["--weights", "random"], "never learns the statistics"),
        "fine-tune": ([], "keeps the statistics of batch-norm"),
        "from-scratch": (["--set", "main.layers=heads"], "no use with random weights"),
    }
    for recipe, (more, told) in cases.items():
        out = tmp_path / "run"
        assert main(["train", recipe, "--data", data, "--out", str(out), *more]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert told in line
        assert "--weights coco" in line
        assert not out.exists()
    mended = ["--set", "main.batch_norm=train"]
    plan_training(Asked(recipe="fine-tune", data=[data], overrides=[mended[1]]))
    with pytest.raises(UserError, match="could not be fetched"):
        starting_point("coco", load_recipe("deep-retina"))


class Stored:
    """The two images of the stored step, with objects of the stored boxes."""

    names = ("0", "1")

    def __init__(self, file):
        shape = tuple(file["train_gt_masks_shape"])
        bits = np.unpackbits(file["train_gt_masks_packed"])[: np.prod(shape)].reshape(shape)
        self._samples = [self._sample(file, k, bits[k]) for k in range(2)]

    @staticmethod
    def _sample(file, k, masks):
        planes = []
        for place, (y0, x0, y1, x1) in enumerate(file["train_gt_boxes"][k].tolist()):
            if not file["train_gt_class_ids"][k][place]:
                continue
            mini = masks[..., place] if masks.shape[0] == masks.shape[1] else masks[place]
            mask = resize(mini.astype(float), (y1 - y0, x1 - x0), order=1, anti_aliasing=False) >= 0.5
            for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1]):
                edge[len(edge) // 2] |= not edge.any()  # the stored box is that of the mask
            plane = np.zeros((128, 128), np.int32)
            plane[y0:y1, x0:x1][mask] = len(planes) + 1
            planes.append(plane)
        stack = np.stack(planes)
        return Sample(str(k), file[f"train_image{k}"], stack.max(axis=0), planes=stack)

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self._samples[index]


def test_the_first_losses_are_the_originals(original, tmp_path, monkeypatch):  # noqa: F811
    """`train deep-retina` on the stored batch, from the stored Keras file, with the stored run's draws."""
    file = original.arrays("tiny")
    monkeypatch.setattr(torch, "randperm", lambda n, **_: torch.arange(n))
    monkeypatch.setattr(MatterportRCNN, "training_proposals", 400)
    drawn = [torch.from_numpy(file["train_rpn_match"][k, :, 0].astype(np.int64)) for k in range(2)]
    monkeypatch.setattr(
        "napari_deepretina.model.matterport.training.subsampled",
        lambda match, _: max(drawn, key=lambda d: int((match[d != 0] == d[d != 0]).sum())),
    )
    changes = [
        "stages.epochs=1", "stages.epoch_steps=1", "stages.crop=128", "stages.regions_per_image=60",
        "architecture.short_side=128", "workers=0", "log_every=1", "keep_epochs=0", "precision=32-true",
        *STILL,
    ]  # fmt: skip
    stored = Stored(file)
    train(
        "deep-retina", stored, tmp_path / "run", val="none", weights=str(original.tiny_file),
        changes=changes, device="cpu",
    )  # fmt: skip
    first = events(tmp_path / "run", "train")[0]
    told = [first[name] for name in NAMES]
    assert told[:4] == pytest.approx(file["train_losses"][:4].tolist(), rel=1e-3)
    # masks are read off the label image here, off mini masks of 56 × 56 in the original
    assert told[4] == pytest.approx(file["train_losses"][4], rel=2e-2)


def test_shapes_are_learnt_by_a_narrow_network(tmp_path, coco_file):
    """Several classes, from a file of others: the best weights are chosen by mask AP."""
    changes = [*SHORT, "validate_every=0"]
    weights = train(
        "deep-retina", ShapesDataset(4, side=64), tmp_path / "run", val=ShapesDataset(2, side=64, seed=5),
        weights=str(coco_file), changes=changes, device="cpu",
    )  # fmt: skip
    told = events(tmp_path / "run", "validation")
    assert all(e["score"] == e["mask_ap"] for e in told)
    assert "mask_ap" in read_info(weights).score
