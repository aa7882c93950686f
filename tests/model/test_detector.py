"""The network for inference: the answers of the one that was trained, which torchvision's parts give."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign, batched_nms, clip_boxes_to_image

from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.evaluation import match
from napari_deepretina.inference.segment import segment
from napari_deepretina.inference.steps import drain
from napari_deepretina.model.architecture import Limits
from napari_deepretina.model.batch import prepared
from napari_deepretina.model.network import build
from napari_deepretina.model.pooling import Rows, _gathered, _summed
from napari_deepretina.model.weights import load_model

LIMITS = Limits(score=0.02, objectness=0.3, proposals_per_level=300, proposals=200, detections=50)


def settled(network, seed=0):
    """The network with batch-norm that has learnt something."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for values, low in (
                (module.running_var, 0.5),
                (module.weight.data, 0.5),
                (module.bias.data, -0.2),
            ):
                values.copy_(torch.rand(values.shape, generator=generator) * 0.6 + low)
            module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator) * 0.1)
    return network.eval()


@torch.inference_mode()
def by_torchvision(network, images, limits):
    """Boxes, scores, classes and mask probabilities of each image, by the modules that are trained."""
    size = tuple(images.shape[-2:])
    features = network.backbone(prepared(images))
    first, heads = network.proposals, network.regions
    first._pre_nms_top_n["testing"], first._post_nms_top_n["testing"] = (
        limits.proposals_per_level, limits.proposals
    )  # fmt: skip
    first.score_thresh, first.nms_thresh = limits.objectness, limits.proposal_nms
    proposals, _ = first(ImageList(images, [size] * len(images)), features)
    for image, regions in enumerate(proposals):
        one = {name: f[image : image + 1] for name, f in features.items()}

        def pooled(boxes, side, one=one):
            architecture = network.architecture
            align = MultiScaleRoIAlign(
                ["0", "1", "2", "3"], side, architecture.roi_samples,
                canonical_scale=architecture.roi_canonical_size,
            )  # fmt: skip
            return align(one, [boxes], [size])

        logits, deltas = heads.box_predictor(heads.box_head(pooled(regions, 7)))
        scores, classes = logits.softmax(-1)[:, 1:].max(dim=1)
        chosen = deltas.view(len(deltas), -1, 4)[torch.arange(len(classes)), classes + 1]
        boxes = clip_boxes_to_image(heads.coder.decode_single(chosen, regions), size)
        sure = torch.nonzero((scores >= limits.score) & ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(1)).flatten()
        kept = sure[batched_nms(boxes[sure], scores[sure], classes[sure], limits.nms)[: limits.detections]]
        masks = heads.mask_predictor(heads.mask_head(pooled(boxes[kept], 14)))
        masks = masks[torch.arange(len(kept)), classes[kept] + 1]
        yield boxes[kept], scores[kept], classes[kept] + 1, masks.sigmoid()


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, (128, 192)),
        ({"backbone": "resnet50", "roi_samples": 2}, (64, 128)),
        ({"backbone": "resnet34", "classes": ("a", "b", "c"), "mask_convs": 3}, (128, 64)),
        ({"fpn_channels": 8, "box_units": 8, "aspect_ratios": (1.0,), "roi_canonical_size": 60}, (192, 128)),
    ],
)
def test_detections_are_those_of_torchvisions_parts(tiny_architecture, changes, size):
    network = settled(build(tiny_architecture.model_copy(update=changes), seed=2))
    field = torch.from_numpy(synthetic_nuclei(size, 12, seed=3)[0] / 255).float()
    images = torch.stack([field.expand(3, -1, -1), field.flip(0).expand(3, -1, -1)])
    detector = network.for_inference()
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in detector.modules())
    found = drain(detector.detect(images, LIMITS))
    for ours, (boxes, scores, classes, masks) in zip(
        found, by_torchvision(network, images, LIMITS), strict=True
    ):
        assert len(scores) > 5
        torch.testing.assert_close(ours.scores, scores, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(ours.boxes, boxes, atol=1e-3, rtol=1e-4)
        assert torch.equal(ours.classes, classes)
        assert ours.masks.dtype == torch.uint8
        assert (ours.masks.float() - masks * 255).abs().max() <= 0.51


def test_training_goes_on_beside_a_detector(tiny_architecture):
    network = build(tiny_architecture, seed=0)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    detector = network.for_inference(torch.bfloat16)
    kept = {k: v.clone() for k, v in detector.state_dict().items()}
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert network.training
    for parameter in network.parameters():
        assert parameter.requires_grad
        parameter.data.add_(1)
    assert all(torch.equal(v, kept[k]) for k, v in detector.state_dict().items())


@pytest.mark.parametrize(("side", "samples", "canonical"), [(7, 1, 128), (14, 2, 32), (2, 3, 224)])
def test_pooling_is_roi_align(side, samples, canonical):
    generator = torch.Generator().manual_seed(side)
    shapes = [(2, 5, 256 // s, 192 // s) for s in (4, 8, 16, 32)]
    maps = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    corner = torch.rand(60, 2, generator=generator) * 260 - 30
    sides = torch.rand(60, 2, generator=generator) ** 3 * 300
    boxes = torch.cat([corner, corner + sides], 1)
    boxes[0, 2:] = boxes[0, :2]  # no area at all
    images = torch.arange(60) % 2
    align = MultiScaleRoIAlign(["0", "1", "2", "3"], side, samples, canonical_scale=canonical)
    each = [boxes[images == k] for k in (0, 1)]
    expected = align({str(k): m for k, m in enumerate(maps)}, each, [(256, 192)] * 2)
    rows = Rows.of([m.contiguous(memory_format=torch.channels_last) for m in maps])
    order = torch.argsort(images, stable=True)
    found = rows.pooled(boxes[order], images[order], side, samples=samples, canonical_size=canonical)
    found = found.permute(0, 3, 1, 2)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)
    some = torch.randn(found.shape, generator=generator)
    learnt = [torch.autograd.grad((pooled * some).sum(), maps) for pooled in (found, expected)]
    for ours, theirs in zip(*learnt, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-4)
    bag = torch.tensor([[0, 3, 2], [1, 1, 0]]), torch.tensor([[0.5, 0.25, 0.25], [1.0, 2.0, 3.0]])
    torch.testing.assert_close(_gathered(rows.table, *bag), _summed(rows.table, *bag))
    none = rows.pooled(boxes[:0], images[:0], side, samples=samples, canonical_size=canonical)
    assert none.shape == (0, side, side, 5)


def test_bfloat16_finds_the_same_nuclei():
    image, _ = synthetic_nuclei((256, 256), 40, diameter=24, seed=1)
    exact, quick = (
        segment(image, model=load_model("nuclei-small", precision=p)) for p in ("float32", "bfloat16")
    )
    assert (exact.provenance()["precision"], quick.provenance()["precision"]) == ("float32", "bfloat16")
    assert quick.instances.scores.dtype == np.float32
    assert exact.count == quick.count > 30
    assert np.abs(exact.instances.scores - quick.instances.scores).max() < 0.02
    assert match(exact.labels, quick.labels).counts(0.9)[0] == exact.count
    assert not np.array_equal(exact.prediction.raw.boxes, quick.prediction.raw.boxes)


class Waits(TorchDispatchMode):
    """Counts what makes processors wait for each other: values that Python reads, and sizes."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen[str(function).split(".")[1]] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_nothing_waits_for_values_between_upload_and_download(nuclei_small_network, precision):
    detector = nuclei_small_network.for_inference(getattr(torch, precision))
    counted = []
    for count in (10, 60):
        field = torch.from_numpy(synthetic_nuclei((256, 256), count, diameter=20, seed=5)[0] / 255).float()
        with Waits() as waits:
            found = drain(detector.detect(field.expand(1, 3, -1, -1), Limits(masks_at_once=16)))
        assert len(found[0].scores) >= count * 0.8
        counted.append(waits.seen)
    few, many = counted
    for name in ("_local_scalar_dense", "item", "_to_cpu", "unique", "masked_select"):
        assert many[name] == few[name] == 0, name
    # sizes are waited for where boxes are thinned, however many there are
    assert many["nonzero"] == few["nonzero"] <= 2
    assert many["nms"] == few["nms"]


@pytest.fixture(scope="module")
def nuclei_small_network():
    return load_model("nuclei-small").network
