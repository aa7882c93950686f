import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from napari_deepretina.data.augment import random_crop
from napari_deepretina.data.augmentation import Augmentation
from napari_deepretina.data.crops import CropStream, Decoded, collate, target_of
from napari_deepretina.data.normalise import intensity_range, normalise
from napari_deepretina.data.samples import SAMPLES, sample_image
from napari_deepretina.data.synthetic import SyntheticDataset, synthetic_nuclei
from napari_deepretina.errors import UserError
from napari_deepretina.model.architecture import Architecture

STILL = Augmentation(
    scale=(1, 1),
    aspect=1,
    rotation=0,
    flips=False,
    gamma=1,
    brightness=0,
    contrast=0,
    colour=0,
    grey=0,
    invert=0,
    noise=0,
    blur=0,
    centred=0,
)


@pytest.mark.parametrize("kind", ["fluorescence", "tissue"])
def test_synthetic_fields_are_exact_and_repeatable(kind):
    image, labels = synthetic_nuclei((120, 150), 20, kind=kind, seed=4)
    again = synthetic_nuclei((120, 150), 20, kind=kind, seed=4)
    assert np.array_equal(image, again[0])
    assert np.array_equal(labels, again[1])
    assert not np.array_equal(image, synthetic_nuclei((120, 150), 20, kind=kind, seed=5)[0])
    assert 10 <= labels.max() <= 20
    for i in range(1, labels.max() + 1):
        assert ndimage.label(labels == i)[1] == 1
    inside, outside = image[labels > 0].mean(), image[labels == 0].mean()
    assert inside > outside + 40 if kind == "fluorescence" else inside < outside - 40


def test_every_sample_is_an_image(monkeypatch):
    stained, dark = np.zeros((960, 1280, 3), np.uint8), np.zeros((512, 512), np.uint8)
    monkeypatch.setattr("skimage.data.skin", lambda: stained, raising=False)
    monkeypatch.setattr("skimage.data.human_mitosis", lambda: dark, raising=False)
    for name in SAMPLES:
        image = sample_image(name)
        assert image.dtype == np.uint8
        assert min(image.shape[:2]) >= 256
    with pytest.raises(UserError, match="choose one of"):
        sample_image("nothing")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ConnectionError("no route"), "cannot be reached now"),
        (ModuleNotFoundError("pooch"), "pip install pooch"),
    ],
)
def test_samples_that_cannot_be_fetched_say_why(monkeypatch, error, told):
    def fails():
        raise error

    monkeypatch.setattr("skimage.data.human_mitosis", fails, raising=False)
    with pytest.raises(UserError, match=f"sample human_mitosis is fetched when first opened.*{told}"):
        sample_image("human_mitosis")


RAMP = np.linspace(0, 1, 64 * 64).reshape(64, 64)


@pytest.mark.parametrize(
    "image",
    [
        (RAMP * 255).astype(np.uint8),
        (RAMP * 65535).astype(np.uint16),
        (RAMP * 1e6).astype(np.int32),
        RAMP.astype(np.float32),
        RAMP - 5,
        RAMP.astype(np.float16),
        RAMP > 0.5,
        np.repeat((RAMP * 255).astype(np.uint8)[..., None], 3, axis=2),
        np.repeat((RAMP * 255).astype(np.uint8)[..., None], 4, axis=2),
        RAMP[..., None],
    ],
    ids=str,
)
def test_any_dtype_and_channel_count_becomes_rgb_in_range(image):
    out = normalise(image)
    assert out.shape == (64, 64, 3)
    assert out.dtype == np.float32
    assert -0.5 <= out.min() <= 0.02
    assert 0.98 <= out.max() <= 1.5
    assert (out[..., 0] == out[..., 1]).all()


def test_hopeless_images_become_dark_and_nan_is_survived():
    assert not normalise(np.full((5, 6), 77, np.uint8)).any()
    assert not normalise(np.full((5, 6), np.nan)).any()
    assert not normalise(np.zeros((1, 1))).any()
    holes = RAMP.copy()
    holes[3:9, 3:9], holes[0, 0], holes[0, 1] = np.nan, np.inf, -np.inf
    out = normalise(holes)
    assert np.isfinite(out).all()
    assert not out[3:9, 3:9].any()
    assert intensity_range(holes)[1] <= 1


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((0, 5)),
        np.zeros(5),
        np.zeros((4, 4, 9)),
        np.zeros((2, 2), complex),
        np.zeros((2, 2, 2, 3)),
        np.zeros((2, 2), dtype="U1"),
    ],
)
def test_what_cannot_be_an_image_is_told(image):
    with pytest.raises(UserError):
        normalise(image)


def test_a_still_crop_is_the_image_itself():
    image, labels = synthetic_nuclei((96, 96), 12)
    rng = np.random.default_rng(0)
    view, ids = random_crop(normalise(image), labels, 96, 1.0, STILL, rng)
    assert np.array_equal(ids, labels)
    assert np.allclose(view.numpy().transpose(1, 2, 0), normalise(image), atol=1e-5)


@given(st.integers(0, 10_000))
def test_image_and_labels_move_together(seed):
    """An image that shows its own labels must show them after any crop as well."""
    labels = np.kron(np.arange(1, 10).reshape(3, 3), np.ones((30, 30))).astype(np.int32)
    image = np.repeat((labels / 10).astype(np.float32)[..., None], 3, axis=2)
    moving = STILL.model_copy(update={"scale": (0.7, 1.5), "aspect": 1.3, "rotation": 30, "flips": True})
    view, ids = random_crop(image, labels, 64, 1.0, moving, np.random.default_rng(seed))
    assert set(np.unique(ids)) <= set(range(10))
    lowest = ndimage.minimum_filter(ids, 5, mode="constant")  # borders blend with the dark beyond
    inner = lowest == ndimage.maximum_filter(ids, 5)
    assert np.abs(view[0].numpy() - ids / 10)[inner & (ids > 0)].max(initial=0) < 1e-3


def test_ids_above_float_precision_survive():
    labels = np.full((64, 64), 2**31 - 1, np.int32)
    view, ids = random_crop(
        np.zeros((64, 64, 3), np.float32), labels, 64, 1.0, STILL, np.random.default_rng(0)
    )
    assert (ids == 2**31 - 1).all()
    assert view.shape == (3, 64, 64)


def stream(**changes):
    options = {
        "size": 64,
        "architecture": Architecture(short_side=64),
        "augmentation": Augmentation(),
        "seed": 3,
        "length": 10,
    }
    options |= changes
    dataset, diameter = SyntheticDataset(4, shape=(64, 80), count=8), options.pop("diameter", 0)
    images = Decoded(dataset, options.pop("architecture"), diameter=diameter)
    return CropStream(images, **options)


def test_crops_depend_on_seed_and_number_only():
    one, two, other = stream(), stream(), stream(seed=4)
    assert len(one) == 10
    for k in (7, 0, 3):
        assert torch.equal(one[k][0], two[k][0])
        assert torch.equal(one[k][1].labels, two[k][1].labels)
        assert not torch.equal(one[k][0], other[k][0])


def test_workers_do_not_change_the_crops():
    plain = list(torch.utils.data.DataLoader(stream(), batch_size=5, collate_fn=collate))
    helped = list(torch.utils.data.DataLoader(stream(), batch_size=5, collate_fn=collate, num_workers=2))
    for a, b in zip(plain, helped, strict=True):
        assert torch.equal(a.images, b.images)


def test_small_nuclei_are_shown_as_inference_looks_at_them():
    knows = 28.0
    architecture = Architecture(short_side=64)
    assert architecture.adapted_scale(10, knows, usual=1.0) == pytest.approx(2.0)
    assert architecture.adapted_scale(16, knows, usual=1.4) == pytest.approx(1.2 * 28 / 16)
    assert architecture.adapted_scale(25, knows, usual=1.0) is None
    assert architecture.adapted_scale(140, knows, usual=1.0) == pytest.approx(2.0 * 28 / 140)
    assert architecture.adapted_scale(100, knows, usual=1.0) is None
    options = {"augmentation": STILL, "length": 60, "diameter": 45.0}  # the stream's nuclei have about 22
    usual = [drawn_side(stream(**options), k) for k in range(60)]
    assert max(usual) < 36
    options["augmentation"] = STILL.model_copy(update={"adapt": 0.5})
    enlarged = [side for side in (drawn_side(stream(**options), k) for k in range(60)) if side > 36]
    assert 12 < len(enlarged) < 48


def drawn_side(crops, number):
    """Side of the largest nucleus of a crop."""
    boxes = crops[number][1].boxes
    return float((boxes[:, 2:] - boxes[:, :2]).prod(dim=1).max() ** 0.5) if len(boxes) else 0.0


def test_truth_of_a_crop():
    labels = np.zeros((30, 30), np.int32)
    labels[2:8, 3:9], labels[20:28, 10:30], labels[0, 0] = 900_000, 5, 7
    target = target_of(labels)
    assert target.boxes.tolist() == [[10, 20, 30, 28], [3, 2, 9, 8]]  # the single pixel is too small
    assert [int((target.labels == i).sum()) for i in target.ids] == [160, 36]
    full = target_of(np.full((8, 8), 3, np.int32))
    assert full.boxes.tolist() == [[0, 0, 8, 8]]
    assert len(target_of(np.zeros((8, 8), np.int32)).boxes) == 0
