"""Measurements are scikit-image's, to the last digits that floating-point numbers hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import regionprops_table

from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.document import measure
from napari_deepretina.document.measure import channels_of, measure_instances
from napari_deepretina.instances import Instances

OURS = {
    "index": "label", "area": "area", "y0": "bbox-0", "x0": "bbox-1", "y1": "bbox-2", "x1": "bbox-3",
    "y": "centroid-0", "x": "centroid-1", "perimeter": "perimeter", "major_axis": "axis_major_length",
    "minor_axis": "axis_minor_length", "eccentricity": "eccentricity", "solidity": "solidity",
}  # fmt: skip
PROPERTIES = (
    "label", "area", "bbox", "centroid", "perimeter", "axis_major_length", "axis_minor_length",
    "eccentricity", "solidity",
)  # fmt: skip


def ragged(seed, shape=(40, 50), count=25):
    """Labels with holes, specks, lines and touching neighbours, also at the border."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    for label in rng.permutation(count * 3)[:count] + 1:
        y, x = rng.integers(0, shape[0]), rng.integers(0, shape[1])
        height, width = rng.integers(1, 12, 2)
        labels[y : y + height, x : x + width] = label
    labels[rng.random(shape) < 0.15] = 0
    return labels


def close(ours, theirs):
    assert np.allclose(ours, theirs, rtol=1e-9, atol=1e-6, equal_nan=True)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10_000))
def test_shapes_are_those_of_scikit_image(seed):
    labels = ragged(seed)
    found, expected = measure(labels), regionprops_table(labels, properties=PROPERTIES)
    for ours, theirs in OURS.items():
        close(found[ours], expected[theirs])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("size", [(0.5, 0.25), (0.3, 0.3)])
def test_lengths_in_units_and_intensities_are_those_of_scikit_image(size):
    image, labels = synthetic_nuclei((128, 128), 20, seed=3)
    rng = np.random.default_rng(1)
    channels = {
        "DAPI": image,
        "GFP": rng.normal(0, 3, image.shape),
        "RFP": rng.integers(0, 60_000, image.shape),
    }
    found = measure(labels, channels, pixel_size=size)
    lengths = ("area", "axis_major_length", "axis_minor_length", "eccentricity")
    expected = regionprops_table(labels, properties=lengths, spacing=size)
    for ours, theirs in zip(
        ("area_µm²", "major_axis_µm", "minor_axis_µm", "eccentricity"), lengths, strict=True
    ):
        close(found[ours], expected[theirs])
    plain = regionprops_table(labels, properties=("area", "perimeter"))
    assert np.array_equal(found["area"], plain["area"])
    if size[0] == size[1]:
        close(
            found["perimeter_µm"],
            regionprops_table(labels, properties=["perimeter"], spacing=size)["perimeter"],
        )
    else:  # not defined there, by scikit-image either
        assert np.isnan(found["perimeter_µm"]).all()
    close(found["perimeter"], plain["perimeter"])
    for name, values in channels.items():
        wanted = ("intensity_mean", "intensity_min", "intensity_max")
        expected = regionprops_table(labels, values.astype(float), properties=wanted)
        for kind, theirs in zip(("mean", "min", "max"), wanted, strict=True):
            close(found[f"{kind}_{name}"], expected[theirs])
        close(found[f"total_{name}"], found[f"mean_{name}"] * found["area"])


def test_an_object_of_a_stack_is_one_row():
    stack = np.zeros((4, 30, 30), np.int32)
    stack[0, 5:9, 5:9], stack[1, 5:15, 5:15], stack[2, 7:10, 7:10] = 3, 3, 3
    stack[1, 20:24, 20:26], stack[3, 0:2, 0:2] = 8, 1
    values = np.arange(stack.size, dtype=float).reshape(stack.shape)
    found = measure(stack, {"c": values}, pixel_size=(2.0, 2.0))
    assert found["index"].tolist() == [1, 3, 8]
    assert found["area"].tolist() == [4, 16 + 100 + 9, 24]
    assert found["area_µm²"].tolist() == [16, 500, 96]
    assert found["first"].tolist() == [3, 0, 1]
    assert found["last"].tolist() == [3, 2, 1]
    assert found["planes"].tolist() == [1, 3, 1]
    assert [found[k][1] for k in ("x0", "y0", "x1", "y1")] == [5, 5, 15, 15]
    largest = measure(stack[1])
    assert found["perimeter"][1] == largest["perimeter"][0]
    for label, row in ((1, 0), (3, 1), (8, 2)):
        inside = values[stack == label]
        told = [found[f"{k}_c"][row] for k in ("mean", "min", "max", "total")]
        assert told == pytest.approx([inside.mean(), inside.min(), inside.max(), inside.sum()])
        assert found["y"][row] == pytest.approx(np.nonzero(stack == label)[1].mean())


@pytest.mark.parametrize("shape", [(20, 20), (3, 20, 20)])
def test_nothing_has_the_columns_of_something(shape):
    labels = np.zeros(shape, np.int32)
    empty = measure(labels, {"c": labels}, pixel_size=(1.0, 1.0))
    labels[..., 3:6, 3:6] = 2
    assert list(empty) == list(measure(labels, {"c": labels}, pixel_size=(1.0, 1.0)))
    assert {len(v) for v in empty.values()} == {0}


def test_a_channel_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"channel 'c' has shape \(3, 4\)"):
        measure(np.zeros((4, 4), np.int32), {"c": np.zeros((3, 4))})


def test_instances_are_measured_in_bands_as_the_whole_is():
    image, labels = synthetic_nuclei((100, 130), 14, seed=5)
    found = Instances.from_labels(labels)
    whole = measure(labels, {"intensity": image}, pixel_size=(0.4, 0.2))
    for band in (1, 130 * 7, 2**24):
        banded = measure_instances(found, {"intensity": image}, pixel_size=(0.4, 0.2), band=band)
        assert list(banded) == list(whole)
        for name, values in whole.items():
            assert np.allclose(banded[name], values, equal_nan=True)
    nothing = measure_instances(Instances.empty((5, 7)), channels_of(np.zeros((5, 7, 3), np.uint8)))
    assert {len(v) for v in nothing.values()} == {0}
    assert "mean_green" in nothing
