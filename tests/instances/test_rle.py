import numpy as np
import pytest
from hypothesis import given

from napari_deepretina.instances import Instances, relabel_sequential, rle
from tests.strategies import label_images


def by_pixel(mask):
    """The competition's rule, pixel by pixel."""
    runs, previous = [], None
    for position, inside in enumerate(mask.T.ravel(), start=1):
        if not inside:
            continue
        if previous is not None and position == previous + 1:
            runs[-1][1] += 1
        else:
            runs.append([position, 1])
        previous = position
    return " ".join(f"{s} {n}" for s, n in runs)


@given(label_images())
def test_encoding_equals_the_pixel_loop(labels):
    strings = rle.encode(Instances.from_labels(labels))
    assert strings == [by_pixel(labels == i) for i in np.unique(labels[labels > 0])]


@given(label_images())
def test_round_trip(labels):
    strings = rle.encode(Instances.from_labels(labels))
    assert np.array_equal(rle.decode(strings, labels.shape).to_labels(), relabel_sequential(labels))


def test_a_run_goes_on_over_the_end_of_a_column():
    mask = np.zeros((3, 3), np.int32)
    mask[1:, 0] = mask[0, 1] = 1
    assert rle.encode(Instances.from_labels(mask)) == ["2 3"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1 2 3", "pairs"),
        ("1 x", "not a list of integers"),
        ("0 2", "'0 2' lies outside"),
        ("1 0", "'1 0' lies outside"),
        ("-4 2", "'-4 2' lies outside"),
        ("12 2", "'12 2' lies outside"),
        ("1 99999999999999999999", "not a list of integers"),
    ],
)
def test_bad_strings_are_told(text, says):
    with pytest.raises(ValueError, match=f"object 2.*{says}"):
        rle.decode(["1 1", text], (3, 4))


def test_unsorted_runs_are_read():
    assert rle.decode(["5 1 1 2"], (3, 2)).to_labels().tolist() == [[1, 0], [1, 1], [0, 0]]
