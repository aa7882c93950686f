"""Single operations against the original's stored inputs and outputs."""

import numpy as np
import pytest
import torch
from torchvision.ops import nms

from napari_deepretina.model.architecture import Architecture, Limits
from napari_deepretina.model.matterport import boxes as mboxes
from napari_deepretina.model.matterport.network import MatterportRCNN, Regions
from napari_deepretina.postprocess.masks import place_masks

from .conftest import stack


@pytest.fixture(scope="module")
def ops(original):
    return original.arrays("ops")


@pytest.fixture(scope="module")
def network():
    widths = (4, 4, 8, 4, 8, 4, 8, 4, 8)
    return MatterportRCNN(
        Architecture(backbone="matterport_resnet50", body_widths=widths, fpn_channels=8, rpn_channels=8,
                     box_units=8, mask_channels=8)
    ).eval()  # fmt: skip


def tensor(array):
    return torch.from_numpy(np.asarray(array))


@pytest.mark.parametrize("size", [7, 14])
def test_features_of_regions_are_equal_to_the_bit(ops, size):
    maps = [tensor(ops[f"roialign_P{k}"]).permute(2, 0, 1) for k in (2, 3, 4, 5)]
    shape = tuple(ops["roialign_image_shape"].tolist())
    found = mboxes.pooled(maps, tensor(ops["roialign_boxes"]), shape, size)
    assert np.array_equal(found.permute(0, 2, 3, 1).numpy(), ops[f"roialign_out_{size}"])
    levels = mboxes.levels_of(tensor(ops["roialign_boxes"]), shape)
    assert np.array_equal(levels.numpy(), ops["roialign_levels"])


def test_regions_without_extent_are_taken_from_the_lowest_level():
    assert mboxes.levels_of(torch.zeros(1, 4), (512, 512)).tolist() == [2]


def test_anchors(ops):
    anchors = mboxes.pyramid_anchors((64, 128), (8, 16, 32, 64, 128), (0.5, 1, 2))
    assert np.array_equal(anchors, ops["anchors_64x128_px"])
    assert np.array_equal(mboxes.normalised(anchors, (64, 128)), ops["anchors_64x128_norm"])


def test_boxes(ops):
    assert np.array_equal(mboxes.normalised(ops["box_a"], (640, 512)), ops["box_norm_640x512"])
    half = mboxes.in_pixels(ops["box_half_in"], (10, 10))
    assert np.array_equal(half, ops["box_half_denorm_10x10"])
    a, b = (tensor(ops[f"box_{k}"].astype(np.float32)) for k in "ab")
    assert mboxes.deltas_between(a, b).numpy() == pytest.approx(ops["box_refinement"], abs=1e-6)
    # what undoes a refinement is its application
    assert mboxes.apply_deltas(a, tensor(ops["box_refinement"])).numpy() == pytest.approx(
        ops["box_b"], abs=1e-3
    )


@pytest.mark.parametrize("prefix", ["", "clean_"])
@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.7])
def test_thinning(ops, prefix, threshold):
    boxes = ops[f"{prefix}nms_boxes"]
    # one has its corners exchanged, which TensorFlow mends and a network never answers
    boxes = np.concatenate(
        [np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], 1
    )
    keep = nms(tensor(boxes), tensor(ops[f"{prefix}nms_scores"]), threshold)
    expected = ops[f"{prefix}nms_keep_{threshold}"]
    if prefix:
        assert np.array_equal(keep.numpy(), expected)
    else:  # equal scores come in any order
        assert len(keep) == len(expected)


@pytest.mark.parametrize("count", [60, 1000])
def test_proposals(ops, network, monkeypatch, count):
    for image in range(2):
        monkeypatch.setattr(
            network, "anchors", lambda shape, device, k=image: tensor(ops["proposal_anchors"][k])
        )
        found = network.propose(
            tensor(ops["clean_proposal_probs"][image]), tensor(ops["proposal_deltas"][image]), (1, 1), count
        )
        assert found.numpy() == pytest.approx(ops[f"clean_proposal_out_{count}"][image], abs=1e-6)


@pytest.mark.parametrize("most", [40, 12])
def test_refinement_of_detections(ops, network, most):
    network.detections = most
    probabilities = tensor(ops["clean_refine_probs"])
    heads = Regions(probabilities.log(), tensor(ops["refine_deltas"]))
    window = tensor(ops["refine_window"])
    limits = Limits(score=0.6, nms=0.3)
    boxes, scores, classes = network.refine(tensor(ops["refine_rois"]), heads, window, limits)
    expected = ops[f"clean_refine_out_max{most}"]
    expected = expected[expected[:, 4] > 0]
    assert boxes.numpy() == pytest.approx(expected[:, :4], abs=1e-6)
    assert np.array_equal(classes.numpy(), expected[:, 4])
    assert scores.numpy() == pytest.approx(expected[:, 5], abs=1e-6)


def test_masks_are_pasted_as_the_original_does(ops):
    boxes = ops["unmold_boxes"][:, [1, 0, 3, 2]].astype(np.float32)
    expected = stack(ops, "unmold_full")
    frames, placed = place_masks(
        ops["unmold_masks"] * np.float32(255), boxes, expected.shape[:2], 0.5, fading=True
    )
    for k, ((x0, y0, x1, y1), mask) in enumerate(zip(frames.tolist(), placed, strict=True)):
        full = np.zeros(expected.shape[:2], bool)
        full[y0:y1, x0:x1] = mask
        assert np.array_equal(full, expected[..., k]), k


def test_a_pasted_mask_fades_at_its_border_but_not_below_its_lowest_value(ops):
    ones = np.full((1, 28, 28), 255, np.float32)
    box = np.array([[0, 0, 33, 40]], np.float32)
    whole = place_masks(ones, box, (40, 33), 0.9, fading=True)[1][0]
    assert whole.all()  # its lowest value is its highest
    ones[0, 14, 14] = 0
    faded = place_masks(ones, box, (40, 33), 0.9, fading=True)[1][0]
    assert np.array_equal(faded, ops["ones28_zero_at_14_14_resized_40x33"] >= 0.9)
