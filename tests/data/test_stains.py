"""Stained tissue in other colours."""

import numpy as np
import pytest
import torch

from napari_deepretina.data.augment import random_crop
from napari_deepretina.data.augmentation import Augmentation
from napari_deepretina.data.kinds import kind_of
from napari_deepretina.data.normalise import normalise
from napari_deepretina.data.sample import Sample
from napari_deepretina.data.stains import coloured, is_stained, painted_brown, restained, turned_hues
from napari_deepretina.data.synthetic import synthetic_nuclei

TISSUE, LABELS = synthetic_nuclei((128, 128), 20, diameter=22, kind="tissue", seed=4)
GREY, _ = synthetic_nuclei((128, 128), 20, diameter=22, seed=4)


def view(image):
    return torch.from_numpy(normalise(image).transpose(2, 0, 1))


def brownness(pixels):
    """How much more red than blue a (3, H, W) image is."""
    return (pixels[0] - pixels[2]).numpy()


def test_what_counts_as_coloured_and_as_stained():
    lossy = np.dstack([GREY, GREY, np.clip(GREY.astype(int) + np.indices(GREY.shape).sum(0) % 3, 0, 255)])
    assert coloured(view(TISSUE))
    assert not coloured(view(GREY))
    assert not coloured(view(lossy.astype(np.uint8)))
    assert is_stained(view(TISSUE))
    assert not is_stained(view(TISSUE) * 0.3)
    assert kind_of(Sample("a", lossy.astype(np.uint8), LABELS)) == "bright on dark"
    assert kind_of(Sample("a", TISSUE, LABELS)) == "stained tissue"


def test_nuclei_or_their_surroundings_turn_brown():
    inside, seen = LABELS > 0, view(TISSUE)
    nuclear = around = 0
    for seed in range(24):
        painted = painted_brown(seen, LABELS, np.random.default_rng(seed))
        assert painted.shape == seen.shape
        assert torch.isfinite(painted).all()
        assert 0 <= float(painted.min()) <= float(painted.max()) <= 1.0001
        brown = brownness(painted)
        of_each = [float(brown[i == LABELS].mean()) for i in range(1, LABELS.max() + 1)]
        nuclear += max(of_each) > 0.1 and max(of_each) > brown[~inside].mean() + 0.05
        around += brown[~inside].mean() > np.median(of_each) + 0.02
    assert nuclear > 4
    assert around > 4


def test_the_same_draws_give_the_same_picture():
    one, two = (painted_brown(view(TISSUE), LABELS, np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(one, two)


def test_only_stained_tissue_is_painted():
    names = ("rotation", "brightness", "contrast", "colour", "grey", "invert", "noise", "blur", "centred")
    still = {**dict.fromkeys(names, 0), "scale": (1, 1), "aspect": 1, "flips": False, "gamma": 1}
    for image, changes in ((TISSUE, True), (GREY, False)):
        pictures = [
            random_crop(
                normalise(image), LABELS, 128, 1.0, Augmentation(**still, brown=b), np.random.default_rng(1)
            )
            for b in (0, 1)
        ]
        assert np.array_equal(pictures[0][1], pictures[1][1])
        assert torch.equal(pictures[0][0], pictures[1][0]) != changes


@pytest.mark.parametrize("amount", [0.0, 0.3])
def test_stains_and_hues_keep_the_picture(amount):
    seen = view(TISSUE).clamp(0.05, 1)
    again = restained(seen, amount, np.random.default_rng(0))
    assert float((again - seen).abs().mean()) < 0.02 + amount
    turned = turned_hues(seen, 0.4)
    assert torch.allclose(turned.sum(dim=0), seen.sum(dim=0), atol=1e-5)
