import numpy as np
import pytest

from napari_deepretina.errors import UserError
from napari_deepretina.instances import Instances, editing

SQUARES = np.kron(np.array([[1, 0, 2], [0, 3, 0]]), np.ones((4, 4), int)).astype(np.int32)


def applied(change):
    labels = SQUARES.copy()
    indices, values = change
    labels[indices] = values
    return labels


def test_a_line_cuts_off_the_smaller_side():
    halves = applied(editing.split(SQUARES, 1, np.array([[-1, 0.5], [9, 0.5]]), 9))
    assert (halves[:4, 0] == 9).all()
    assert (halves[:4, 1:4] == 1).all()


def test_ids_under_a_line_in_its_order():
    assert editing.ids_under(SQUARES, np.array([[1.0, 10], [1, -3]])).tolist() == [2, 1]
    assert editing.ids_under(SQUARES, np.array([[50.0, 50], [60, 60]])).tolist() == []


def test_what_cannot_be_cut_is_told():
    for label in (0, 77):
        with pytest.raises(UserError, match="choose a nucleus"):
            editing.split(SQUARES, label, np.array([[-1, 0.5], [9, 0.5]]), 9)
    with pytest.raises(UserError, match="does not cut nucleus 1"):
        editing.split(SQUARES, 1, np.array([[20.0, 0], [20, 5]]), 9)


def test_a_box_is_filled_anew():
    found = Instances.drawn(
        [(0, 0, 3, 2), (4, 4, 6, 6)], [np.ones((2, 3), bool), np.ones((2, 2), bool)], (8, 8)
    )
    box = (0, 0, 8, 8)
    new = applied(editing.replace_within(SQUARES, box, found, 10, keep=np.array([3])))
    assert (new[:2, :3] == 10).all()  # 1 lay inside the box and made room
    assert not (new == 1).any()
    assert (new[4:8, 4:8] == 3).all()  # kept, though a new one was found there
    assert (new[SQUARES == 2] == 2).all()
