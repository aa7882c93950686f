"""Arrays on disk are decoded once, not once for each tile that overlaps another."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_deepretina.data.channels import overview
from napari_deepretina.data.guarded import Guarded
from napari_deepretina.errors import UserError

PIXELS = np.arange(70 * 90).reshape(70, 90)


class Disk:
    """An array that counts what is decoded of it."""

    def __init__(self, pixels):
        self.pixels, self.shape, self.dtype, self.ndim = pixels, pixels.shape, pixels.dtype, pixels.ndim
        self.decoded = 0

    def __getitem__(self, index):
        piece = self.pixels[index]
        self.decoded += piece.size
        return piece


def axis(length):
    pair = st.tuples(st.integers(0, length - 1), st.integers(1, length))
    return pair.filter(lambda p: p[0] < p[1]).flatmap(
        lambda p: st.builds(slice, st.just(p[0]), st.just(p[1]), st.sampled_from([None, 1, 2, 7]))
    )


@settings(max_examples=200, deadline=None)
@given(axis(70), axis(90))
def test_parts_are_those_of_the_array(rows, columns):
    held = Guarded(Disk(PIXELS), "a file", (16, 32))
    assert np.array_equal(held[rows, columns], PIXELS[rows, columns])


def test_a_chunk_is_decoded_once():
    disk = Disk(PIXELS)
    held = Guarded(disk, "a file", (16, 32))
    for _ in range(3):
        for y in range(0, 16, 4):
            assert np.array_equal(held[y : y + 4, 32:40], PIXELS[y : y + 4, 32:40])
    assert disk.decoded == 16 * 32


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(Guarded, "KEPT_BYTES", 2 * 16 * 32 * PIXELS.itemsize)
    disk = Disk(PIXELS)
    held = Guarded(disk, "a file", (16, 32))
    for y in (0, 16, 32, 0):
        held[y : y + 2, 0:2]
    assert disk.decoded == 4 * 16 * 32
    assert len(held._kept) == 2


def test_nobody_can_change_what_is_kept():
    held = Guarded(Disk(PIXELS.copy()), "a file", (16, 32))
    with pytest.raises(ValueError, match="read-only"):
        held[0:2, 0:2][...] = 0


def test_faults_name_the_file():
    class Broken(Disk):
        def __getitem__(self, index):
            raise RuntimeError("bad tile")

    with pytest.raises(UserError, match=r"slide\.tif cannot be read: bad tile"):
        Guarded(Broken(PIXELS), "slide.tif", (16, 32))[0:2, 0:2]


def test_the_overview_of_an_image_on_disk_is_read_once(monkeypatch):
    monkeypatch.setattr("napari_deepretina.data.channels._SAMPLED", 100)
    disk = Disk(PIXELS)
    first = overview(disk)
    read = disk.decoded
    assert np.array_equal(overview(disk), first)
    assert disk.decoded == read
    other = Disk(PIXELS + 1)
    assert np.array_equal(overview(other), first + 1)
    assert np.array_equal(overview(PIXELS), first)
