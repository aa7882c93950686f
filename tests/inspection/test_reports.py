"""Weights, data and errors: numbers that a person can check by hand."""

import json

import numpy as np
import pytest
import tifffile
import torch

from napari_deepretina.data.sample import Sample
from napari_deepretina.data.synthetic import SyntheticDataset, synthetic_nuclei
from napari_deepretina.errors import UserError
from napari_deepretina.inspection.data import crops_of, overview, unpaired
from napari_deepretina.inspection.errors import compare_labels, precision_recall
from napari_deepretina.inspection.weights import changes, layers_of
from napari_deepretina.model.architecture import Architecture
from napari_deepretina.model.header import WeightsInfo
from napari_deepretina.model.network import build
from napari_deepretina.model.weights import LoadedModel
from napari_deepretina.training.recipe import load_recipe


def model_of(architecture, seed=0):
    info = WeightsInfo(name=f"seed {seed}", architecture=architecture)
    return LoadedModel(build(architecture, seed=seed), info, None, "", torch.device("cpu"))


def test_layers_outliers_and_dead_filters(tiny_architecture):
    model = model_of(tiny_architecture)
    weight = model.network.proposals.head.cls_logits.weight.data
    weight[1] = 0
    weight[0, 0, 0, 0] = 1e3 * weight.std()
    told = {layer.name: layer for layer in layers_of(model)}
    layer = told["proposals.head.cls_logits.weight"]
    assert layer.outliers == 1
    assert 1 in layer.dead
    assert layer.counts.sum() == weight.numel()
    assert layer.low == pytest.approx(weight.min().item())
    conv = told["backbone.body.conv1.weight"]
    assert conv.dead == ()
    json.dumps([x.to_json() for x in told.values()])


def test_two_files_side_by_side(tiny_architecture):
    first, second = model_of(tiny_architecture), model_of(tiny_architecture)
    assert max(c["largest"] for c in changes(first, second).values()) == 0
    second.network.regions.box_predictor.cls_score.bias.data += 0.5
    told = changes(first, second)
    assert told["regions.box_predictor.cls_score.bias"]["mean"] == pytest.approx(0.5)
    assert told["backbone.body.conv1.weight"]["mean"] == 0
    other = Architecture(backbone="matterport_resnet50", body_widths=(8, *(8, 16) * 4), fpn_channels=8,
                         rpn_channels=8, box_units=8, mask_channels=8)  # fmt: skip
    with pytest.raises(UserError, match="no layer of the same name"):
        changes(first, model_of(other))


class Odd:
    names = ("good", "empty", "odd", "broken")

    def __len__(self):
        return 4

    def __getitem__(self, index):
        labels = np.zeros((40, 50), np.int32)
        if index == 0:
            labels[10:20, 10:20] = 4
        if index == 2:
            labels[2:4, 2:4] = 1
            labels[20:26, 20:26] = labels[30:36, 40:46] = 2
        if index == 3:
            raise UserError("cannot be read")
        return Sample(self.names[index], np.full((40, 50), 100, np.uint8), labels)


def test_an_overview_counts_and_finds_what_is_odd():
    told = overview(Odd())
    assert (told.images, told.nuclei) == (3, 3)
    assert told.sizes == {(40, 50): 3}
    assert told.diameters[0] == pytest.approx(2 * np.sqrt(100 / np.pi))
    assert told.intensities == [100, 100, 100]
    kinds = {(o.kind, o.name, o.label) for o in told.oddities}
    assert kinds == {
        ("empty", "empty", 0), ("tiny nucleus", "odd", 1), ("several pieces", "odd", 2),
        ("unreadable", "broken", 0),
    }  # fmt: skip
    tiny = next(o for o in told.oddities if o.kind == "tiny nucleus")
    assert tiny.position in {(2, 2), (2, 3), (3, 2), (3, 3)}
    assert told.to_json()["per_image"]["most"] == 2


def test_files_without_their_other_half(tmp_path):
    for kind, name in (("images", "a"), ("labels", "a"), ("images", "b"), ("labels", "c")):
        (tmp_path / kind).mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / kind / f"{name}.tif", np.zeros((4, 4), np.uint8))
    assert {(o.kind, o.name) for o in unpaired(tmp_path)} == {
        ("labels without image", "labels/c.tif"), ("image without labels", "images/b.tif"),
    }  # fmt: skip
    assert unpaired(tmp_path / "gone") == []


def test_crops_are_what_training_sees():
    recipe = load_recipe("fine-tune", ["main.crop=64"])
    dataset = SyntheticDataset(3, shape=(64, 64), count=5, diameter=14)
    first, again = (crops_of(dataset, recipe, count=3) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert one.image.shape == (64, 64, 3)
        assert np.array_equal(one.image, other.image)
        for x0, y0, x1, y1 in one.boxes.astype(int).tolist():
            assert one.labels[y0:y1, x0:x1].any()


def test_errors_are_told_apart():
    truth = np.zeros((60, 80), np.int32)
    truth[5:15, 5:15] = 1  # hit
    truth[5:15, 30:40] = 2  # missed
    truth[30:40, 5:25] = 3  # split into two
    truth[30:40, 40:50], truth[30:40, 50:60] = 4, 5  # merged
    found = np.zeros_like(truth)
    found[5:15, 5:16] = 1
    found[50:58, 60:70] = 2  # extra
    found[30:40, 5:15], found[30:40, 15:25] = 3, 4
    found[30:40, 40:60] = 5
    told = compare_labels(truth, found)
    assert told.kinds["hit"].tolist() == [1]
    assert 2 in told.kinds["miss"]
    assert 2 in told.kinds["extra"]
    assert told.kinds["split"].tolist() == [3]
    assert told.kinds["merge"].tolist() == [5]
    assert told.worst[-1][:2] == (1, 1)
    assert told.worst[0][2] == 0
    picture = told.picture(truth, found)
    assert [picture[10, 10], picture[10, 35], picture[54, 65], picture[35, 45]] == [1, 2, 3, 2]
    thresholds, precision, recall = precision_recall(told, np.array([0.9, 0.8, 0.7, 0.6, 0.5]))
    assert thresholds.tolist() == [0.9, 0.8, 0.7, 0.6, 0.5]
    assert precision[:2].tolist() == [1, 0.5]
    assert recall[-1] == pytest.approx(1 / 5)
    with pytest.raises(UserError, match="differ in size"):
        compare_labels(truth, found[:9])
    json.dumps(told.to_json())


def test_a_perfect_answer_has_no_errors():
    _, labels = synthetic_nuclei((90, 90), 8, diameter=18)
    told = compare_labels(labels, labels)
    assert not any(len(told.kinds[k]) for k in ("miss", "extra", "split", "merge"))
    assert told.score.dsb_score == 1
