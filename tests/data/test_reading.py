"""Intensities and colours are read as a person sees them: a table of named cases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.color import hed2rgb

from napari_deepretina.data.normalise import normalise
from napari_deepretina.data.percentiles import percentiles
from napari_deepretina.data.reading import (
    HIGH,
    LOW,
    NOTHING,
    Reading,
    best_for_labels,
    read_plainly,
    read_stains,
    readings,
)
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.errors import UserError

GREY, LABELS = synthetic_nuclei((240, 300), 40, diameter=26, seed=2)
TISSUE, _ = synthetic_nuclei((240, 300), 60, diameter=26, kind="tissue", seed=2)
WIDE = GREY.astype(np.uint16) * 8


def as_colour(*shares):
    return np.stack([np.round(GREY * s).astype(np.uint8) for s in shares], axis=-1)


def bordered(image, value=0, width=40):
    sides = [(width, width), (width, width), (0, 0)][: image.ndim]
    return np.pad(image, sides, constant_values=value)


def with_no_data(value):
    image = WIDE.astype(np.float32)
    image[:12], image[100:104, 50:90] = value, value
    return image


def same_picture(reading, image, plain, inner=slice(None)):
    """Whether an image is read as the plain one is, where it shows the same."""
    expected = normalise(plain)
    found = reading(image)[inner, inner] if inner != slice(None) else reading(image)
    return float(np.abs(found - expected).mean()) < 0.03


# name → (image, the plain image, where in the image it lies)
CASES = {
    "blue": (as_colour(0, 0, 1), GREY, slice(None)),
    "green": (as_colour(0, 1, 0), GREY, slice(None)),
    "red, a little in the others": (as_colour(1, 0.05, 0.03), GREY, slice(None)),
    "cyan": (as_colour(0, 0.7, 1), GREY, slice(None)),
    "magenta": (as_colour(1, 0, 0.8), GREY, slice(None)),
    "black border on an offset": (bordered(WIDE + 1000), WIDE, slice(40, -40)),
    "white border on an offset": (bordered(WIDE + 1000, 65535), WIDE, slice(40, -40)),
    "black border in colour": (bordered(TISSUE), TISSUE, slice(40, -40)),
    "no data below": (with_no_data(-9999), WIDE, slice(None)),
    "no data far below": (with_no_data(-3.4e38), WIDE, slice(None)),
    "not a number": (with_no_data(np.nan), WIDE, slice(None)),
    "32 bits with an offset": (WIDE.astype(np.uint32) + np.uint32(4_000_000_000), WIDE, slice(None)),
    "64 bits with an offset": (WIDE.astype(np.float64) * 1e-3 + 1e9, WIDE, slice(None)),
    "signed": (WIDE.astype(np.int16) - 30000, WIDE, slice(None)),
    "with alpha": (np.dstack([TISSUE, np.full(TISSUE.shape[:2], 255, np.uint8)]), TISSUE, slice(None)),
    "grey as three channels": (np.dstack([GREY] * 3), GREY, slice(None)),
}


@pytest.mark.parametrize(("image", "plain", "inner"), CASES.values(), ids=CASES)
def test_it_is_read_as_the_plain_image(image, plain, inner):
    assert same_picture(readings(image)[0], image, plain, inner)


PLAIN = {
    "grey": GREY,
    "16 bits": WIDE,
    "float": GREY / 255,
    "inverted": 255 - GREY,
    "tissue": TISSUE,
    "dark tissue": TISSUE // 2,
    "nuclei on black": np.where(LABELS > 0, GREY, 0).astype(np.uint8),
    "few nuclei": np.where(LABELS == 3, GREY, GREY.min()).astype(np.uint8),
    "a ramp": np.linspace(0, 1, 240 * 300).reshape(240, 300),
    "noise": np.random.default_rng(0).normal(100, 5, (240, 300)),
    "half bright": np.where(np.arange(300) < 150, GREY, GREY // 2 + 120).astype(np.uint8),
    "booleans": LABELS > 0,
}


@pytest.mark.parametrize("image", PLAIN.values(), ids=PLAIN)
def test_plain_images_are_read_plainly(image):
    first, plain = readings(image)[0], read_plainly(image)
    assert np.allclose((*first.low, *first.high), (*plain.low, *plain.high), rtol=1e-3, atol=1e-9)
    assert (first.blank, first.channels, first.note) == ((), None, "")


@pytest.mark.parametrize("share", [0.003, 0.02])
def test_glare_is_offered_to_be_left_out(share):
    image = WIDE.astype(np.uint16)
    side = round((share * image.size) ** 0.5)
    image[20 : 20 + side, 30 : 30 + side] = min(65535, int(WIDE.max()) * 20)
    labels = LABELS.copy()
    labels[20 : 20 + side, 30 : 30 + side] = 0
    chosen = best_for_labels(readings(image), image, labels)
    assert "glare" in chosen.note or "empty" in chosen.note
    assert same_picture(chosen, image, WIDE)


def test_two_channels_are_offered_apart_and_together():
    other = np.random.default_rng(1).normal(90, 20, GREY.shape).clip(0, 255).astype(np.uint8)
    offered = readings(np.dstack([other, GREY]))
    assert {r.channels for r in offered} == {(0,), (1,), (0, 1)}
    chosen = best_for_labels(offered, np.dstack([other, GREY]), LABELS)
    assert chosen.channels == (1,)
    assert chosen.note == "only channel 1 is looked at"
    assert same_picture(chosen, np.dstack([other, GREY]), GREY)
    four = np.dstack([other, other, other, GREY])
    assert (3,) in {r.channels for r in readings(four)}


def slide(haematoxylin, dab, eosin=0.0):
    """A picture of densities, each a number or (240, 300)."""
    stains = [np.broadcast_to(np.asarray(x, float), GREY.shape) for x in (haematoxylin, eosin, dab)]
    return np.round(hed2rgb(np.dstack(stains)) * 255).astype(np.uint8)


SOME = np.where(LABELS <= 20, LABELS, 0)
DEPTH = np.where(SOME > 0, 0.06, 0.005)


def test_stains_of_brown_slides_are_offered_by_themselves():
    """A marker between nuclei hides them in colour, not in their stain; one in nuclei is seen with both."""
    around, inside = slide(DEPTH, 0.065 - DEPTH), slide(DEPTH / 4, 2 * DEPTH)
    for image, best in ((around, (0,)), (inside, (0, 2))):
        offered = {r.stains: r for r in readings(image)}
        assert list(offered) == [(), (0,), (0, 2)]
        grey = offered[best](image).mean(axis=2)
        assert np.median(grey[SOME > 0]) > 0.6
        assert np.median(grey[SOME == 0]) < 0.3
        assert best_for_labels(list(offered.values()), image, SOME).stains == ()
    assert "haematoxylin" in offered[0,].note


NOISE = np.random.default_rng(0).normal(0, 30, (*GREY.shape, 3))
NOISY = (slide(DEPTH, 0.0, 0.03) + NOISE).clip(0, 255).astype(np.uint8)  # noise has all colours


@pytest.mark.parametrize("image", [slide(DEPTH, 0.0, 0.03), TISSUE, slide(DEPTH, 0)[..., ::-1], NOISY, GREY])
def test_others_are_not(image):
    assert not any(r.stains for r in readings(image))


def test_stains_are_read_beside_padding_in_16_bits_and_in_parts():
    image = slide(DEPTH, 0.065 - DEPTH)
    (plain,) = (r for r in readings(image) if r.stains == (0,))
    wide = bordered(image.astype(np.uint16) * 250)
    (found,) = (r for r in readings(wide) if r.stains == (0,))
    read = found(wide)
    assert np.abs(read[40:-40, 40:-40] - plain(image)).mean() < 0.03
    assert not read[:40].any()
    assert np.array_equal(found(wide[50:90, 60:200]), read[50:90, 60:200])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_stains_beside_values_that_are_none(value):
    image = slide(DEPTH, 0.065 - DEPTH).astype(np.float64) / 255
    (plain,) = (r for r in readings(image) if r.stains == (0,))
    image[:3, :3] = value
    (found,) = (r for r in readings(image) if r.stains == (0,))
    read = found(image)
    assert np.isfinite(read).all()
    assert np.abs(read[20:] - plain(image)[20:]).mean() < 0.02
    image[:3, :3] = 1e300
    assert all(np.isfinite(r(image)).all() for r in readings(image))


def test_stains_of_any_colours_can_be_asked_for():
    pink = slide(DEPTH, 0.0, 0.03)
    assert np.median(read_stains(pink, "haematoxylin")(pink)[SOME > 0]) > 0.6
    assert read_stains(np.zeros_like(pink), "haematoxylin") is NOTHING
    with pytest.raises(UserError, match=r"'haematoxylin' tells stains apart .* has 1 channels"):
        read_stains(GREY, "haematoxylin")


def test_blank_parts_are_filled_with_the_typical_value():
    image = bordered(WIDE + 1000)
    reading = readings(image)[0]
    assert "of the image is empty" in reading.note
    assert reading.fill == pytest.approx(float(np.median(normalise(WIDE))), abs=0.02)
    assert (reading(image)[0] == np.float32(reading.fill)).all()


def test_a_part_is_read_as_in_the_whole():
    image = bordered(as_colour(0, 0.7, 1))
    reading = readings(image)[0]
    assert np.array_equal(reading(image[50:90, 60:200]), reading(image)[50:90, 60:200])


def test_dark_and_bright_change_places():
    reading = readings(GREY)[0]
    turned = Reading(reading.low, reading.high, inverted=True)
    assert np.allclose(turned(GREY).clip(0, 1), 1 - reading(GREY).clip(0, 1), atol=1e-6)


@given(st.integers(0, 10_000), st.sampled_from([np.uint8, np.int8, np.uint16, np.int16]))
def test_percentiles_are_numpys(seed, dtype):
    rng = np.random.default_rng(seed)
    info = np.iinfo(dtype)
    low, high = sorted(rng.integers(info.min, info.max, 2, endpoint=True).tolist())
    values = rng.integers(low, high, rng.integers(1, 400), endpoint=True).astype(dtype)
    asked = (LOW, HIGH, 50.0, 0.0, 100.0, float(rng.uniform(0, 100)))
    assert np.allclose(percentiles(values, asked), np.percentile(values.astype(float), asked), atol=1e-6)
