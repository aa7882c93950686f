"""Detection step by step: the same as detection, in the image's pixels, with the right story."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_deepretina.data.normalise import normalise
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.errors import UserError
from napari_deepretina.inference.predict import lay_out, predict
from napari_deepretina.inference.steps import drain
from napari_deepretina.inspection import STEPS
from napari_deepretina.inspection.steps import inspect_image
from napari_deepretina.inspection.story import story_of, why_missed
from napari_deepretina.model.architecture import Architecture, Limits
from napari_deepretina.model.header import WeightsInfo
from napari_deepretina.model.network import build
from napari_deepretina.model.rescoring import Rescoring
from napari_deepretina.model.weights import LoadedModel
from napari_deepretina.postprocess import PostprocessSettings

IMAGE, TRUTH = synthetic_nuclei((300, 400), 40, diameter=26, seed=1)


@pytest.fixture(scope="module")
def inspection(nuclei_model):
    return inspect_image(nuclei_model, IMAGE)


def matterport_model():
    architecture = Architecture(
        backbone="matterport_resnet50", body_widths=(8, *(8, 16) * 4), fpn_channels=16, rpn_channels=16,
        box_units=16, mask_channels=8, short_side=128,
    )  # fmt: skip
    network = build(architecture, seed=0).eval()
    network.proposals = 200
    info = WeightsInfo(name="narrow", architecture=architecture)
    return LoadedModel(network, info, None, "", torch.device("cpu"))


@pytest.mark.parametrize("kind", ["nuclei", "matterport"])
def test_the_steps_end_where_detection_does(nuclei_model, kind):
    model = nuclei_model if kind == "nuclei" else matterport_model()
    image = IMAGE if kind == "nuclei" else IMAGE[:90, :100]
    steps = inspect_image(model, image)
    raw = drain(predict(model, image)).raw
    assert len(raw) == len(steps.raw) > 3
    for field in ("boxes", "scores", "masks", "classes"):
        assert np.array_equal(getattr(raw, field), getattr(steps.raw, field)), field
    assert len(steps.traced.detections) == len(steps.raw)


def test_steps_are_linked_and_lie_over_the_image(inspection, nuclei_model):
    t, zoom = inspection.traced, inspection.plan.scaled[0] / inspection.plan.shape[0]
    # detections are the final boxes, to the pixel
    assert t.moved[t.detections] == pytest.approx(inspection.raw.boxes, abs=1e-3)
    assert np.array_equal(inspection.boxes("final boxes", most=10_000)["score"], inspection.raw.scores)
    assert inspection.rescored
    assert t.scores[t.detections].min() >= inspection.head_floor == inspection.limits.score
    # anchors: 8 to 128 pixels where the network looks, level by level, first centre in the corner
    areas = np.prod(t.anchors[:, 2:] - t.anchors[:, :2], axis=1) * zoom**2
    for level, side in zip((2, 3, 4, 5, 6), (8, 16, 32, 64, 128), strict=True):
        assert np.sqrt(areas[t.levels == level]) == pytest.approx(side, rel=0.1)
    for step in STEPS[:6]:
        columns = inspection.boxes(step, most=100)
        assert {"box", "index", "score", "level"} <= set(columns)
        assert len({len(v) for v in columns.values()}) == 1
    # refined boxes were clipped to what the network saw
    assert t.refined.min() > -1e-3
    # every NMS survivor is one of the considered anchors, the surest first
    objectness = t.objectness[t.considered[t.regions]]
    assert (np.diff(objectness) <= 1e-6).all()


def test_maps_lie_where_their_anchors_do(inspection):
    t = inspection.traced
    for name, level in (("P2", 2), ("P4", 4), ("P6", 6)):
        maps, scale, translate = inspection.activation(name)
        centres = (t.anchors[t.levels == level][::3, :2] + t.anchors[t.levels == level][::3, 2:]) / 2
        rows, columns = maps.shape[1:]
        x = centres[:, 0].reshape(rows, columns)
        y = centres[:, 1].reshape(rows, columns)
        # a pixel of the image has its centre half a pixel from its corner
        assert y[1, 0] - 0.5 == pytest.approx(1 * scale[0] + translate[0], abs=0.6 * scale[0] / 4)
        assert x[0, -1] - x[0, 0] == pytest.approx((columns - 1) * scale[1], rel=1e-2)


def test_activations_are_the_networks(inspection, nuclei_model):
    images = lay_out(normalise(IMAGE), inspection.plan)
    with torch.inference_mode():
        features, _ = nuclei_model.network._features(images)
        ours = nuclei_model.detector.maps(images)
    for level, (name, key) in enumerate((("P2", "0"), ("P3", "1"), ("P4", "2"), ("P5", "3"), ("P6", "pool"))):
        map_ = inspection.traced.maps[name]
        assert np.array_equal(map_, ours[level][0].numpy())
        trained = features[key][0].numpy()
        assert np.abs(map_ - trained).max() < 1e-4 * np.abs(trained).max()
    assert inspection.traced.maps["C5"].shape[0] == 512


def test_pictures_of_masks(inspection):
    soft = inspection.soft_masks()
    assert soft.shape == IMAGE.shape
    assert soft[inspection.labels > 0].mean() > 0.8
    pasted = inspection.pasted()
    assert (pasted > 0)[inspection.labels > 0].mean() > 0.99


def test_the_story_of_a_nucleus(inspection):
    for label in (1, len(inspection.instances)):
        story = story_of(inspection, label)
        n = story.numbers
        t = inspection.traced
        assert t.considered[t.regions[n["region"]]] == n["anchor"]
        assert n["score"] == inspection.instances.scores[label - 1]
        assert n["area"] == (inspection.labels == label).sum()
        rows, columns = np.nonzero(inspection.labels == label)
        x0, y0, x1, y1 = story.boxes["final"]
        inside = (columns >= x0 - 1) & (columns <= x1 + 1) & (rows >= y0 - 1) & (rows <= y1 + 1)
        assert inside.all()
        assert f"Nucleus {label}" in story.sentence
        assert story.mask.shape == (28, 28)


def a_pixel(labels, label):
    rows, columns = np.nonzero(labels == label)
    middle = len(rows) // 2
    return int(rows[middle]), int(columns[middle])


def test_what_is_there_is_not_missed(inspection):
    assert why_missed(inspection, *a_pixel(inspection.labels, 3)).step == "found"


def test_missed_for_want_of_an_anchor(default_model):
    """A disc of 900 pixels, far beyond the largest anchor."""
    rows, columns = np.ogrid[:1024, :1024]
    truth = (((rows - 512) ** 2 + (columns - 512) ** 2) < 450**2).astype(np.int32)
    rng = np.random.default_rng(0)
    image = (truth * 120 + rng.integers(0, 30, truth.shape)).astype(np.uint8)
    steps = inspect_image(default_model, image, PostprocessSettings(score=0.9))
    steps.labels[:] = 0  # whatever it took the disc for
    missed = why_missed(steps, 512, 512, truth)
    assert missed.step == "no anchor"
    assert "900 × 900" in missed.sentence or "899 × 899" in missed.sentence
    assert "diameter" in missed.sentence


def test_missed_for_a_surer_neighbour(nuclei_model):
    """With no overlap allowed, the less sure of two boxes that overlap goes."""
    settings = PostprocessSettings(score=0.5, nms=0.0)
    strict = inspect_image(nuclei_model, IMAGE, settings)
    loose = inspect_image(nuclei_model, IMAGE, settings.model_copy(update={"nms": 0.5}))
    lost = [
        i + 1 for i, s in enumerate(loose.instances.sources.tolist())
        if s not in set(strict.instances.sources.tolist())
    ]  # fmt: skip
    assert lost
    seen = 0
    for label in lost:
        y, x = a_pixel(loose.labels, label)
        if strict.labels[y, x]:
            continue
        missed = why_missed(strict, y, x, loose.labels)
        assert missed.step == "nms"
        assert "with nucleus" in missed.sentence
        seen += 1
    assert seen


@pytest.mark.parametrize("step", ["head score", "context"])
def test_missed_for_its_score(nuclei_model, step):
    """The head's own one, or where weights rescore the one beside the image's other nuclei."""
    alike = Rescoring(mean=(0,) * 5, spread=(1,) * 5, hidden=((0,) * 6,), output=(0, 1))  # 0.73 for all
    info = nuclei_model.info.model_copy(update={"rescoring": alike if step == "context" else None})
    nuclei_model = replace(nuclei_model, info=info)
    all_of_them = inspect_image(nuclei_model, IMAGE, PostprocessSettings(score=0.5))
    threshold = round(float(np.median(all_of_them.instances.scores)) + (step == "context") * 0.1, 4)
    sure = inspect_image(nuclei_model, IMAGE, PostprocessSettings(score=threshold))
    lost = [
        k for k in range(1, len(all_of_them.instances) + 1)
        if all_of_them.instances.scores[k - 1] < threshold and not sure.labels[a_pixel(all_of_them.labels, k)]
    ]  # fmt: skip
    assert lost
    for label in lost[:5]:
        missed = why_missed(sure, *a_pixel(all_of_them.labels, label), all_of_them.labels)
        assert missed.step == step
        assert f"threshold is {threshold:g}" in missed.sentence
        assert "beside the image's other nuclei" in missed.sentence or step == "head score"
        # without a truth to go by, a box beside it may be taken for the one that was lost
        told = why_missed(sure, *a_pixel(all_of_them.labels, label)).step
        assert told in (step, "nms", "rpn nms", "refinement")


def test_missed_where_nothing_is(nuclei_model):
    dark = np.zeros((128, 128), np.uint8)
    dark[5, 5] = 1
    truth = np.zeros((128, 128), np.int32)
    truth[60:80, 60:80] = 1
    steps = inspect_image(nuclei_model, dark, limits=Limits(objectness=0.9))
    assert why_missed(steps, 70, 70, truth).step == "rpn score"


@pytest.mark.data
def test_a_real_image_step_by_step(nuclei_model, stage1):
    from napari_deepretina.data.open import open_dataset
    from napari_deepretina.data.sample import Subset

    dataset, split = open_dataset(stage1 / "stage1_train.zip")
    sample = Subset(dataset, split.val)[0]
    steps = inspect_image(nuclei_model, sample.image)
    raw = drain(predict(nuclei_model, sample.image)).raw
    assert np.array_equal(raw.boxes, steps.raw.boxes)
    assert len(steps.instances) > 5
    # what is missed is told to be lost somewhere, what is found is not
    for label in range(1, int(sample.labels.max()) + 1):
        y, x = a_pixel(sample.labels, label)
        told = why_missed(steps, y, x, sample.labels)
        assert (told.step == "found") == bool(steps.labels[y, x])
        assert told.sentence


def test_lazy_images_are_read_and_huge_ones_refused(default_model):
    import dask.array

    lazy = inspect_image(default_model, dask.array.from_array(IMAGE, chunks=100))
    assert len(lazy.instances) > 20
    with pytest.raises(UserError, match="crop the image"):
        inspect_image(default_model, dask.array.zeros((6000, 6000), dtype=np.uint8))
