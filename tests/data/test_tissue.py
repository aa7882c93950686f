"""Whether an image shows stained tissue, or unstained cells."""

from dataclasses import replace

import numpy as np
import pytest
import skimage.data
from scipy import ndimage

from napari_deepretina.data import Subset, open_dataset
from napari_deepretina.data.reading import NOTHING, readings
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.data.tissue import (
    most_need_specialist,
    needs_specialist,
    shows_tissue,
    shows_unstained,
)

GLOWING = synthetic_nuclei((160, 200), 12, diameter=22, seed=3)[0].astype(np.float64)
STAINED = skimage.data.immunohistochemistry()[:200, :240]


def told(image):
    return shows_tissue(image, readings(image)[0])


def unstained(image):
    return shows_unstained(image, readings(image)[0])


def in_transmitted_light(shape=(400, 420), count=24, seed=1):
    """(H, W, 3) uint8: cells with halos and grains on a grey ground, lit from one side."""
    _, labels = synthetic_nuclei(shape, count, diameter=24, seed=seed)
    cells = (labels > 0).astype(float)
    rng = np.random.default_rng(seed)
    inner = ndimage.binary_erosion(labels, iterations=2)
    grains = 3 * inner * ndimage.gaussian_filter(rng.standard_normal(shape), 1)
    halo = ndimage.gaussian_filter(cells, 3) - ndimage.gaussian_filter(cells, 1)
    grey = 120 + 40 * np.linspace(0, 1, shape[1]) + 110 * halo + 30 * grains + rng.normal(0, 2, shape)
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize("image", [GLOWING, GLOWING * 40 + 300, np.repeat(GLOWING[..., None], 3, axis=2)])
def test_grey_is_no_tissue(image):
    assert not told(image)
    assert not told(image.max() - image)


def test_stained_tissue_and_what_padding_does_to_it():
    assert told(STAINED)
    padded = np.zeros((600, 700, 3), np.uint8)
    padded[200:400, 300:540] = STAINED
    assert told(padded)


def test_stains_by_themselves_are_no_tissue():
    read = {r.stains: shows_tissue(STAINED, r) for r in readings(STAINED)}
    assert read == {(): True, (0,): False, (0, 2): False}


def test_white_glass_around_tissue_does_not_matter():
    slide = np.full((900, 1200, 3), 243, np.uint8)
    slide[300:500, 500:740] = STAINED
    assert told(slide)


def test_a_violet_stain_alone_is_no_tissue():
    """Thin smears on white ground, which general networks know."""
    depth = (GLOWING / GLOWING.max())[..., None]
    assert not told((255 - depth * np.array([120, 140, 60])).astype(np.uint8))
    assert told((255 - depth * np.array([60, 140, 90])).astype(np.uint8))


def test_coloured_channels_on_a_dark_ground():
    image = np.zeros((*GLOWING.shape, 3), np.uint8)
    image[..., 2] = GLOWING / GLOWING.max() * 255
    image[20:60, 20:60, 1] = 180
    assert not told(image)


def test_nothing_to_see():
    assert not shows_tissue(np.full((9, 9), np.nan), NOTHING)
    assert not told(np.zeros((9, 9)))


class _Lazy:
    """An image that cannot be had whole."""

    dtype, shape, ndim = np.dtype(np.uint8), (40_000, 30_000, 3), 3

    def __getitem__(self, where):
        rows, columns = (range(n)[w] for n, w in zip(self.shape, where, strict=False))
        assert len(rows) * len(columns) < 1e7
        dark = np.random.default_rng(0).random((len(rows), len(columns), 1)) < 0.1
        return np.where(dark, (90, 60, 140), (230, 180, 210)).astype(np.uint8)


def test_an_image_on_disk_is_looked_over():
    assert told(_Lazy())


@pytest.mark.parametrize("shape", [(260, 300), (400, 420), (1500, 1100)])
def test_unstained_cells_are_darker_and_brighter_than_their_ground(shape):
    image = in_transmitted_light(shape, count=shape[0] * shape[1] // 7000)
    assert unstained(image)
    assert unstained(image[..., 0].astype(np.uint16) * 200)
    assert not told(image)
    padded = np.zeros((shape[0] + 200, shape[1] + 300, 3), np.uint8)
    padded[100:-100, 150:-150] = image
    assert unstained(padded)
    turned = replace(readings(image)[0], inverted=True)
    assert not shows_unstained(image, turned)


def test_nuclei_that_glow_are_not_unstained_cells():
    """Nor are dark ones on white, nor nuclei that fill the image, nor noise, nor colours."""
    assert not unstained(GLOWING)
    assert not unstained(GLOWING.max() - GLOWING)
    dense = synthetic_nuclei((300, 300), 150, diameter=24, seed=2)[0]
    assert not unstained(dense[:160, :160])
    assert not unstained(np.random.default_rng(0).normal(100, 5, (200, 200)))
    assert not unstained(STAINED)
    few = np.random.default_rng(1).normal(300, 40, (1024, 1024))
    few[400:600, 400:600] += 5.0 * synthetic_nuclei((200, 200), 4, diameter=22, seed=4)[0]
    assert not unstained(few)
    assert not unstained(np.full((40, 40), 7))
    assert not shows_unstained(np.full((9, 9), np.nan), NOTHING)


@pytest.mark.parametrize(
    ("name", "tissue", "cells"),
    [
        ("open/nuinsseg", True, False),
        ("open/tnbc", True, False),
        ("open/kromp", False, False),
        ("open/aitslab", False, False),
        ("open/aisegcell_brightfield", False, True),
        ("open/brifiseg_brightfield", False, True),
    ],
)
@pytest.mark.data
def test_real_images(stage1, name, tissue, cells):
    dataset, split = open_dataset(str(stage1 / f"{name}.zip"))
    chosen = Subset(dataset, list(split.part("val"))[:4])
    images = [chosen[k].image for k in range(len(chosen))]
    assert {told(image) for image in images} == {tissue}
    assert {unstained(image) for image in images} == {cells}
    assert {needs_specialist(image, readings(image)[0]) for image in images} == {tissue or cells}
    assert most_need_specialist(chosen) == (tissue or cells)
