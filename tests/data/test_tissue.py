"""Whether an image shows stained tissue."""

import numpy as np
import pytest
import skimage.data

from napari_deepretina.data import Subset, open_dataset
from napari_deepretina.data.reading import NOTHING, readings
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.data.tissue import mostly_tissue, shows_tissue

GLOWING = synthetic_nuclei((160, 200), 12, diameter=22, seed=3)[0].astype(np.float64)
STAINED = skimage.data.immunohistochemistry()[:200, :240]


def told(image):
    return shows_tissue(image, readings(image)[0])


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


@pytest.mark.parametrize(
    ("name", "tissue"),
    [
        ("nuinsseg", True),
        ("tnbc", True),
        ("kromp", False),
        ("aitslab", False),
        ("aisegcell_brightfield", False),
    ],
)
@pytest.mark.data
def test_real_images(stage1, name, tissue):
    dataset, split = open_dataset(str(stage1 / "open" / f"{name}.zip"))
    chosen = Subset(dataset, list(split.part("val"))[:4])
    assert {told(chosen[k].image) for k in range(len(chosen))} == {tissue}
    assert mostly_tissue(chosen) == tissue
