import numpy as np
import pytest
import torch
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from napari_deepretina.data.crops import target_of
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.inference.steps import drain
from napari_deepretina.model import targets
from napari_deepretina.model.architecture import Architecture, Limits
from napari_deepretina.model.network import build
from napari_deepretina.model.regions import FORGIVEN, region_weights
from napari_deepretina.model.targets import mask_targets, match_anchors


def random_boxes(n, generator, size=100.0):
    corner = torch.rand(n, 2, generator=generator) * size
    return torch.cat([corner, corner + 1 + torch.rand(n, 2, generator=generator) * 30], dim=1)


@pytest.mark.parametrize("chunk", [7, 64, 100_000])
@pytest.mark.parametrize("seed", range(4))
def test_anchors_are_matched_as_torchvision_does(seed, chunk, monkeypatch):
    monkeypatch.setattr(targets, "ANCHORS_AT_ONCE", chunk)
    generator = torch.Generator().manual_seed(seed)
    boxes, anchors = random_boxes(9, generator), random_boxes(500, generator)
    matched, labels = match_anchors(boxes, anchors)
    expected = Matcher(0.7, 0.3, allow_low_quality_matches=True)(box_iou(boxes, anchors))
    assert torch.equal(labels == 1, expected >= 0)
    assert torch.equal(labels == 0, expected == Matcher.BELOW_LOW_THRESHOLD)
    assert torch.equal(labels == -1, expected == Matcher.BETWEEN_THRESHOLDS)
    positive = labels == 1
    assert torch.equal(matched[positive], expected[positive])


def test_mask_targets_show_the_object_inside_its_region():
    labels = torch.zeros(60, 60, dtype=torch.int32)
    labels[10:38, 20:48], labels[10:24, 20:34] = 5, 9
    regions = torch.tensor([[20.0, 10, 48, 38], [20, 10, 48, 38], [-30, -30, -2, -2]])
    masks = mask_targets(labels, torch.tensor([5, 9, 5]), regions, 28)
    assert masks.shape == (3, 28, 28)
    assert torch.equal(masks[0], (labels[10:38, 20:48] == 5).float())
    assert torch.equal(masks[1], (labels[10:38, 20:48] == 9).float())
    assert not masks[2].any()


def test_confident_detections_that_no_label_touches_count_little_where_labels_are_incomplete():
    regions = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60], [80, 80, 90, 90]])
    logits = torch.tensor([[0.0, 3], [3, 0], [0, 3], [3, 0]])
    labels = np.zeros((100, 100), np.int32)
    labels[:10, :10] = 1
    partly, whole, bare = (
        target_of(labels, complete=False), target_of(labels), target_of(labels * 0, complete=False)
    )  # fmt: skip
    assert region_weights(regions, logits, partly).tolist() == pytest.approx([1, 1, FORGIVEN, 1])
    assert region_weights(regions, logits, whole).tolist() == [1, 1, 1, 1]
    assert region_weights(regions, logits, bare).tolist() == pytest.approx([FORGIVEN, 1, FORGIVEN, 1])
    assert region_weights(regions[:0], logits[:0], partly).shape == (0,)
    assert not partly.to(torch.device("cpu")).complete


def batch(n=2, size=128, seed=0):
    fields = [synthetic_nuclei((size, size), 12, seed=seed + i) for i in range(n)]
    images = torch.stack([torch.from_numpy(i / 255.0).float().expand(3, -1, -1) for i, _ in fields])
    return images, [target_of(labels) for _, labels in fields]


@pytest.mark.parametrize(
    ("backbone", "width"),
    [("resnet18", 1), ("resnet34", 1 / 16), ("resnet50", 1), ("resnet101", 1 / 4), ("resnet18", 1 / 64)],
)
def test_every_backbone_learns_and_detects(backbone, width, tiny_architecture):
    network = build(tiny_architecture.model_copy(update={"backbone": backbone, "width": width}), seed=1)
    assert network.backbone.body.conv1.out_channels == 64 * width
    images, truth = batch(1, 64)
    losses = network.train()(images, truth)
    assert set(losses) == {
        "loss_objectness",
        "loss_rpn_box_reg",
        "loss_classifier",
        "loss_box_reg",
        "loss_mask",
    }
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    found = drain(network.for_inference().detect(images, Limits(score=0, objectness=0, detections=7)))
    assert len(found) == 1
    assert found[0].masks.shape == (7, 28, 28)
    assert found[0].masks.dtype == torch.uint8
    assert (found[0].scores.diff() <= 0).all()


def test_a_crop_without_nuclei_gives_every_parameter_a_gradient(tiny_architecture):
    network = build(tiny_architecture, seed=0).train()
    losses = network(torch.zeros(1, 3, 64, 64), [target_of(np.zeros((64, 64), np.int32))])
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    assert losses["loss_mask"].item() == 0


def test_the_masks_of_some_regions_are_learnt(tiny_architecture, monkeypatch):
    network = build(tiny_architecture, seed=0).train()
    images, truth = batch(2, 128)
    asked = []
    heads, ask = network.regions, network.regions._mask_logits
    monkeypatch.setattr(
        heads, "_mask_logits", lambda rows, r: asked.append([len(b) for b in r]) or ask(rows, r)
    )
    for most in (0, 3, 1000):
        torch.manual_seed(0)
        network.set_sampling(64, 0.5, most)
        losses = network(images, truth)
        sum(losses.values()).backward()
    assert asked[0] == asked[2]
    assert min(asked[0]) > 3
    assert asked[1] == [3, 3]


def test_learning_lowers_the_loss(tiny_architecture):
    torch.manual_seed(0)
    network = build(tiny_architecture, seed=0).train()
    images, truth = batch(2, 64)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    history = []
    for _ in range(20):
        loss = sum(network(images, truth).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert np.mean(history[-4:]) < 0.7 * np.mean(history[:2])


def test_detections_do_not_depend_on_the_mask_batch(tiny_architecture):
    network = build(tiny_architecture, seed=0).eval()
    images, _ = batch(1)
    limits = Limits(score=0, objectness=0, detections=40)
    whole = drain(network.for_inference().detect(images, limits))[0]
    parts = drain(network.for_inference().detect(images, limits.model_copy(update={"masks_at_once": 7})))[0]
    assert torch.equal(whole.boxes, parts.boxes)
    assert (whole.masks.int() - parts.masks.int()).abs().max() <= 1


def test_two_thousand_nuclei_fit_under_the_caps(tiny_architecture):
    """Proposals and detections of a crowded field are limited by nothing but the caps."""
    network = build(tiny_architecture, seed=0).eval()
    limits = Limits(score=0, objectness=0, proposal_nms=1.0, nms=1.0)
    found = drain(network.for_inference().detect(torch.rand(1, 3, 512, 512), limits))[0]
    assert len(found.boxes) >= 2000


def test_steps_tell_progress_and_leave_autograd_on(tiny_architecture):
    network = build(tiny_architecture, seed=0).eval()
    steps = network.for_inference().detect(torch.rand(1, 3, 64, 64), Limits(score=0, objectness=0))
    shares = []
    for share in steps:
        shares.append(share)
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] <= 1


def test_wrong_sizes_are_refused(tiny_architecture):
    network = build(tiny_architecture, seed=0)
    with pytest.raises(ValueError, match="multiples of 64"):
        network.train()(torch.zeros(1, 3, 60, 64), [target_of(np.zeros((60, 64), np.int32))])


def test_same_seed_same_weights():
    small = Architecture(backbone="resnet18", fpn_channels=8, box_units=8, mask_channels=8)
    one, two, other = build(small, seed=3), build(small, seed=3), build(small, seed=4)
    pairs = zip(one.parameters(), two.parameters(), other.parameters(), strict=True)
    same, different = zip(*((torch.equal(a, b), torch.equal(a, c)) for a, b, c in pairs), strict=True)
    assert all(same)
    assert not all(different)
