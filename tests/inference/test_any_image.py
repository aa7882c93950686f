"""Real images of the validation part, changed as people's images are: the same nuclei are found."""

import numpy as np
import pytest
from scipy import ndimage

from napari_deepretina.data.normalise import intensity_range
from napari_deepretina.data.open import open_dataset
from napari_deepretina.inference.segment import segment, segment_together
from napari_deepretina.inference.settings import make_settings

CHOSEN = ("4b274461c6d0", "b2c23ddb0453")
"""Of the validation part: small ones, with 16 and 10 nuclei."""
LEAST = 0.9


def coloured(*shares):
    return lambda grey: np.stack([np.round(grey * s).astype(np.uint8) for s in shares], axis=-1)


def with_cytoplasm(grey):
    around = ndimage.gaussian_filter(np.roll(grey.astype(float), 12, 0), 10)
    around = (0.9 * around + np.random.default_rng(1).normal(0, 2, grey.shape)).clip(0, 255)
    return np.dstack([np.zeros_like(grey), around.astype(np.uint8), grey])


def patched(grey, where):
    """A patch of 3 per mille of the area, 20 times as bright as nuclei."""
    image = grey.astype(np.uint16) * 12
    image[where] = min(65535, int(np.percentile(image, 99)) * 20)
    return image


def saturated(grey, where):
    image = grey // 4
    image[where] = 255
    return image


def free_place(labels):
    """A square of 3 per mille of the image where there are fewest nuclei."""
    side = max(2, round((0.003 * labels.size) ** 0.5))
    covered = ndimage.uniform_filter((labels > 0).astype(float), side, mode="constant", cval=1.0)
    y, x = np.unravel_index(covered.argmin(), covered.shape)
    return slice(max(0, y - side // 2), y + side // 2 + 1), slice(max(0, x - side // 2), x + side // 2 + 1)


# name → (change of a grey 8-bit image, (rows, columns) that it is moved by)
CHANGES = {
    "blue": (coloured(0, 0, 1), (0, 0)),
    "green": (coloured(0, 1, 0), (0, 0)),
    "red": (coloured(1, 0, 0), (0, 0)),
    "two colours": (coloured(0, 0.6, 1), (0, 0)),
    "nuclei blue, cytoplasm green": (with_cytoplasm, (0, 0)),
    "two channels": (lambda g: with_cytoplasm(g)[..., 1:], (0, 0)),
    "offset and black border": (lambda g: np.pad(g.astype(np.uint16) * 8 + 1000, 40), (40, 40)),
    "offset and white border": (
        lambda g: np.pad(g.astype(np.uint16) * 8 + 1000, 30, constant_values=65535), (30, 30),
    ),
    "corner of a black slide": (
        lambda g: np.pad(g.astype(np.uint16) * 8 + 500, ((0, 256), (256, 0))), (0, 256),
    ),
    "no data": (lambda g: np.pad(g.astype(np.float32), 20, constant_values=-9999), (20, 20)),
    "not a number": (lambda g: np.pad(g.astype(np.float32), 20, constant_values=np.nan), (20, 20)),
    "32 bits with an offset": (lambda g: g.astype(np.uint32) * 16 + np.uint32(3_000_000_000), (0, 0)),
    "16 bits": (lambda g: g.astype(np.uint16) * 257, (0, 0)),
    "float": (lambda g: g / np.float32(255), (0, 0)),
    "with alpha": (lambda g: np.dstack([g, g, g, np.full_like(g, 255)]), (0, 0)),
}  # fmt: skip


@pytest.fixture(scope="module")
def images(stage1, nuclei_model):
    """(grey image, labels that one look at it finds), one for each of `CHOSEN`."""
    dataset, _ = open_dataset(stage1 / "stage1_train_pairs.zip")
    names = [next(n for n in dataset.names if n.startswith(start)) for start in CHOSEN]
    greys = [dataset[list(dataset.names).index(n)].image[..., 0] for n in names]
    return [(grey, segment(grey, model=nuclei_model).labels) for grey in greys]


def found_again(plain, labels, left_out=None):
    """Share of the nuclei of `plain` that have a partner in `labels` which covers most of each."""
    ids = [i for i in range(1, plain.max() + 1) if left_out is None or not (plain[left_out] == i).any()]
    hits = 0
    for i in ids:
        inside = labels[plain == i]
        partner = np.bincount(inside).argmax()
        hits += bool(partner) and (inside == partner).sum() * 2 > max(len(inside), (labels == partner).sum())
    return hits / max(1, len(ids))


@pytest.mark.data
@pytest.mark.parametrize("name", CHANGES)
def test_the_same_nuclei_are_found(images, default_model, name):
    change, (y, x) = CHANGES[name]
    for grey, plain in images:
        labels = segment(change(grey), model=default_model).labels
        height, width = plain.shape
        assert found_again(plain, labels[y : y + height, x : x + width]) >= LEAST


@pytest.mark.data
@pytest.mark.parametrize("change", [patched, saturated])
def test_glare_hides_what_is_under_it_only(images, nuclei_model, change):
    for grey, plain in images:
        where = free_place(plain)
        labels = segment(change(grey, where), model=nuclei_model).labels
        assert found_again(plain, labels, where) >= LEAST


@pytest.mark.data
def test_one_can_choose_otherwise(images, nuclei_model):
    grey, plain = images[0]
    image = np.pad(grey.astype(np.uint16) * 8 + 20_000, 40)
    low, high = (20_000 + 8 * v for v in intensity_range(grey))
    asked = segment(image, model=nuclei_model, intensity=f"{low}:{high}")
    assert found_again(plain, asked.labels[40:-40, 40:-40]) >= LEAST
    assert asked.provenance()["notes"][0] == f"intensities {low:g} to {high:g} as asked for"
    assert segment(image, model=nuclei_model, intensity="plain").count < 0.5 * plain.max()
    turned = segment(255 - grey, model=nuclei_model, invert=True)
    assert found_again(plain, turned.labels) >= LEAST


@pytest.mark.data
def test_tiles_and_batches_read_alike(images, default_model):
    grey, plain = images[0]
    wide = np.tile(np.pad(coloured(0, 0, 1)(grey), ((0, 10), (0, 10), (0, 0))), (2, 3, 1))
    labels = segment(wide, model=default_model, tile=320, adapt=False).labels
    height, width = plain.shape
    alone = segment(grey, model=default_model, adapt=False, diameter=default_model.info.diameter).labels
    assert found_again(alone, labels[:height, :width]) >= 0.8
    settings = make_settings()
    blue = coloured(0, 0, 1)(grey)
    for one in segment_together([blue, blue], default_model, settings):
        assert found_again(plain, one.labels) >= LEAST
        assert "only blue is looked at" in one.prediction.notes[0]
