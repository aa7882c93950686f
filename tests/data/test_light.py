"""What lights an image, told from its ground."""

import numpy as np
import pytest
import skimage.data

from napari_deepretina.data import Subset, open_dataset
from napari_deepretina.data.light import light_of, light_of_most
from napari_deepretina.data.reading import NOTHING, readings
from napari_deepretina.data.synthetic import synthetic_nuclei

GLOWING = synthetic_nuclei((160, 200), 12, diameter=22, seed=3)[0].astype(np.float64)
STAINED = skimage.data.immunohistochemistry()[:200, :240]


def told(image):
    return light_of(image, readings(image)[0])


@pytest.mark.parametrize("image", [GLOWING, GLOWING * 40 + 300, np.repeat(GLOWING[..., None], 3, axis=2)])
def test_nuclei_that_glow(image):
    assert told(image) == "fluorescence"
    assert told(image.max() - image) == "transmitted"


def test_stained_tissue_and_what_padding_does_to_it():
    assert told(STAINED) == "transmitted"
    padded = np.zeros((600, 700, 3), np.uint8)
    padded[200:400, 300:540] = STAINED
    assert told(padded) == "transmitted"
    assert told(np.where(padded > 0, padded, 255).astype(np.uint8)) == "transmitted"


def test_coloured_channels_on_a_dark_ground():
    image = np.zeros((*GLOWING.shape, 3), np.uint8)
    image[..., 2] = GLOWING / GLOWING.max() * 255
    image[20:60, 20:60, 1] = 180
    assert told(image) == "fluorescence"


def test_nothing_to_see():
    assert light_of(np.full((9, 9), np.nan), NOTHING) == "fluorescence"
    assert told(np.zeros((9, 9))) == "fluorescence"


class _Lazy:
    """An image that cannot be had whole."""

    dtype, shape, ndim = np.dtype(np.uint8), (40_000, 50_000), 2

    def __getitem__(self, where):
        rows, columns = (range(n)[w] for n, w in zip(self.shape, where, strict=True))
        assert len(rows) * len(columns) < 1e7
        return np.where(np.random.default_rng(0).random((len(rows), len(columns))) < 0.1, 40, 220)


def test_an_image_on_disk_is_looked_over():
    assert told(_Lazy()) == "transmitted"


@pytest.mark.parametrize(
    ("name", "light"),
    [
        ("nuinsseg", "transmitted"),
        ("tnbc", "transmitted"),
        ("kromp", "fluorescence"),
        ("aitslab", "fluorescence"),
        ("aisegcell_brightfield", "transmitted"),
        ("brifiseg_brightfield", "transmitted"),
    ],
)
@pytest.mark.data
def test_real_images(stage1, name, light):
    dataset, split = open_dataset(str(stage1 / "open" / f"{name}.zip"))
    chosen = Subset(dataset, list(split.part("val"))[:4])
    assert {told(chosen[k].image) for k in range(len(chosen))} == {light}
    assert light_of_most(chosen) == light
