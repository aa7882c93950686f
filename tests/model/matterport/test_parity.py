"""The whole network against the original's stored tensors: the narrow one, and ResNet-101 at full size."""

import h5py
import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from napari_deepretina.inference.predict import predict
from napari_deepretina.inference.steps import drain
from napari_deepretina.model.architecture import Limits
from napari_deepretina.model.header import WeightsInfo
from napari_deepretina.model.matterport.boxes import pooled
from napari_deepretina.model.matterport.keras_weights import import_keras
from napari_deepretina.model.matterport.network import MEAN_PIXEL
from napari_deepretina.model.weights import LoadedModel
from napari_deepretina.postprocess.masks import place_masks

from .conftest import made_weights, stack

AS_CONFIGURED = Limits(score=0.9, nms=0.2)
FULL_SIZE = ("A", "B", "C")


pytestmark = pytest.mark.xdist_group("parity")
"""Networks of 250 MB are loaded once."""


def loaded(network, path):
    info = WeightsInfo(name="original", architecture=network.architecture)
    return LoadedModel(network, info, path, "", torch.device("cpu"))


@pytest.fixture(scope="module")
def tiny(original):
    network = import_keras(original.tiny_file).network
    network.architecture = network.architecture.model_copy(update={"short_side": 128})
    network.proposals, network.detections = 300, 100
    return loaded(network, original.tiny_file)


@pytest.fixture(scope="module")
def full(original, tmp_path_factory):
    path = tmp_path_factory.mktemp("full") / "made.h5"
    with h5py.File(path, "w") as file:
        for name, value in made_weights(original.manifest).items():
            layer = name.split("/")[0]
            owner = "rpn_model" if layer.startswith("rpn") else layer
            file.create_dataset(f"{owner}/{name}", data=value)
    return loaded(import_keras(path).network, path)


def close(found, expected, relative=1e-3):
    """Within a share of the largest value."""
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= relative * max(np.abs(expected).max(), 1e-9)


def nhwc(tensor):
    return tensor[0].permute(1, 2, 0).numpy()


def molded(model, image):
    """What is laid before the network, and where the image lies in it."""
    from napari_deepretina.inference.matterport import lay_out
    from napari_deepretina.inference.plan import make_plan

    plan = make_plan(image.shape[:2], model.network.architecture, trained_diameter=32)
    return lay_out(image, plan), plan


def as_stored(images, expected):
    """The stored input, once ours is seen to be the same but for values on the edge of truncation."""
    off = np.abs(nhwc(images * 255) - expected)
    assert off.max() < 1 + 1e-3
    assert (off > 1e-3).mean() < 1e-3
    return torch.from_numpy(expected / np.float32(255)).permute(2, 0, 1)[None].float()


def same_boxes(found, expected, tolerance=1e-4):
    """Matched one to one, whatever the order."""
    distance = np.abs(found[:, None] - expected[None]).max(axis=2)
    pairs = distance.argmin(axis=1)
    assert len(found) == len(expected)
    assert sorted(pairs.tolist()) == list(range(len(expected)))
    assert distance.min(axis=1).max() <= tolerance


def raw_of(model, image):
    return drain(predict(model, image, limits=AS_CONFIGURED)).raw


def same_results(raw, file, name):
    """What detect() of the original returned: boxes in whole pixels, scores, masks.

    Scores that differ by less than 1e-5 may change places. One mask in a hundred may differ: where a box
    touches the border, the last bit of its other side decides whether its features' last row counts.
    """
    expected = file[f"{name}_result_rois"]
    found = raw.boxes[:, [1, 0, 3, 2]]
    assert len(found) == len(expected)
    cost = np.abs(found[:, None] - expected).max(axis=2) + np.abs(
        raw.scores[:, None] - file[f"{name}_result_scores"]
    )
    place = linear_sum_assignment(cost)[1]
    assert np.array_equal(found, expected[place])
    assert np.array_equal(raw.classes, file[f"{name}_result_class_ids"][place])
    assert raw.scores == pytest.approx(file[f"{name}_result_scores"][place], abs=1e-3)
    masks = stack(file, f"{name}_result_masks")[..., place]
    frames, placed = place_masks(raw.masks, raw.boxes, raw.shape, 0.5, fading=raw.fading)
    shares = []
    for k, ((x0, y0, x1, y1), mask) in enumerate(zip(frames.tolist(), placed, strict=True)):
        assert masks[y0:y1, x0:x1, k].sum() == masks[..., k].sum()
        shares.append((mask == masks[y0:y1, x0:x1, k]).mean())
    off = np.sort(shares)[: 1 + len(shares) // 100]
    assert np.mean(shares) > 0.999
    assert np.sort(shares)[len(off)] > 0.999


@pytest.mark.parametrize("name", ["T1", "T2"])
def test_the_narrow_network_gives_the_originals_tensors(original, tiny, name):
    file = original.arrays("tiny")
    network = tiny.network
    images, plan = molded(tiny, file[f"{name}_image"])
    shape = plan.padded
    assert list(plan.window) == file[f"{name}_window"].tolist()
    images = as_stored(images, file[f"{name}_molded"] + np.array(MEAN_PIXEL, np.float32))
    with torch.inference_mode():
        stages = network.stages(images)[1:]
        for part, tensor in zip(("pool1", "C2", "C3", "C4", "C5"), stages, strict=True):
            close(nhwc(tensor), file[f"{name}_{part}"])
        maps = network.pyramid(images)
        for part, tensor in zip(("P2", "P3", "P4", "P5", "P6"), maps, strict=True):
            close(nhwc(tensor), file[f"{name}_{part}"])
        logits, deltas = network.rpn(maps)
        close(logits[0].numpy(), file[f"{name}_rpn_class_logits"])
        close(logits[0].softmax(-1).numpy(), file[f"{name}_rpn_class"])
        close(deltas[0].numpy(), file[f"{name}_rpn_bbox"])
        assert np.array_equal(network.anchors(shape, "cpu").numpy(), file[f"{name}_anchors"])
        regions = network.propose(logits[0].softmax(-1), deltas[0], shape, 300)
        same_boxes(regions.numpy(), file[f"{name}_rpn_rois"])
        theirs = torch.from_numpy(file[f"{name}_rpn_rois"])
        features = pooled([m[0] for m in maps[:4]], theirs, shape, 7)
        close(features[:24].permute(0, 2, 3, 1).numpy(), file[f"{name}_roi_align_classifier"])
        heads = network.box_head(features)
        close(heads.logits.numpy(), file[f"{name}_mrcnn_class_logits"])
        close(heads.deltas.numpy(), file[f"{name}_mrcnn_bbox"])
    same_results(raw_of(tiny, file[f"{name}_image"]), file, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL_SIZE)
def test_resnet101_gives_the_originals_detections(original, full, name):
    file, told = original.arrays("matterport"), original.told("matterport")["images"][name]["stats"]
    network = full.network
    images, plan = molded(full, file[f"{name}_image"])
    shape = plan.padded
    if f"{name}_resized_uint8" in file.files:
        images = as_stored(images, file[f"{name}_resized_uint8"])
    with torch.inference_mode():
        stages = network.stages(images)
        maps = network.pyramid(images)
        named = dict(zip(("conv1", "pool1", "C2", "C3", "C4", "C5"), stages, strict=True))
        named |= dict(zip(("P2", "P3", "P4", "P5", "P6"), maps, strict=True))
        for part, tensor in named.items():
            rows, columns, channels = told[part]["sample_strides"]
            largest = max(abs(told[part]["min"]), abs(told[part]["max"]))
            values = nhwc(tensor)
            sample = values[::rows, ::columns, ::channels]
            for found, key in ((sample, "sample"), (values.mean((0, 1)), "channel_mean")):
                expected = file[f"{name}_{part}_{key}"]
                assert found.shape == expected.shape, (part, key)
                assert np.abs(found - expected).max() <= 1e-3 * largest, (part, key)
        logits, deltas = network.rpn(maps)
        probabilities = logits[0].softmax(-1)
        step = 1 if f"{name}_rpn_class" in file.files else 97
        suffix = "" if step == 1 else "_every97"
        close(probabilities[::step].numpy(), file[f"{name}_rpn_class{suffix}"])
        close(deltas[0, ::step].numpy(), file[f"{name}_rpn_bbox{suffix}"])
        regions = network.propose(probabilities, deltas[0], shape, 1000)
        same_boxes(regions.numpy(), file[f"{name}_rpn_rois"])
        theirs = torch.from_numpy(file[f"{name}_rpn_rois"])
        heads = network.box_head(pooled([m[0] for m in maps[:4]], theirs, shape, 7))
        close(heads.logits.numpy(), file[f"{name}_mrcnn_class_logits"])
        close(heads.deltas.numpy(), file[f"{name}_mrcnn_bbox"])
    same_results(raw_of(full, file[f"{name}_image"]), file, name)
