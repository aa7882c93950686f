"""What a person made of nuclei, as far as it can be learnt from."""

import numpy as np
import pytest

from napari_deepretina.errors import UserError
from napari_deepretina.instances import Instances
from napari_deepretina.postprocess.pairs import highest_iou
from napari_deepretina.teaching.corrections import Corrections, of_document, of_labels, windows
from tests.document.test_document import begun, stack


def squares(*places, side=10, shape=(100, 100)):
    """(H, W) int32 with squares 1, 2, …, whose corners are these (y, x)."""
    labels = np.zeros(shape, np.int32)
    for label, (y, x) in enumerate(places, start=1):
        labels[y : y + side, x : x + side] = label
    return labels


def found_of(labels, scores):
    """Detections that are these nuclei."""
    found = Instances.from_labels(labels)
    return Instances(
        found.boxes, found.masks, np.array(scores, np.float32), found.classes, found.shape, ids=found.ids
    )


def test_states_of_a_document_decide():
    document = begun()
    ids = document.present.tolist()
    document.accept(ids[0])
    document.delete(ids[1])
    painted = document.labels.copy()
    painted[:3, :3] = document.last_id + 1
    document.take_pixels(painted)
    known = of_document(document)
    assert known.right.tolist() == [ids[0], document.last_id]
    raw = document.planes[()].raw
    assert np.array_equal(known.wrong, raw.boxes[document.planes[()].id_of == ids[1]])
    assert len(known) == 3
    untouched = [i for i in ids[2:] if (document.nuclei[i].score or 0) >= 0.9]
    assert known.sure.tolist() == untouched


def test_planes_of_a_stack_have_their_own():
    document = stack()
    ids = np.unique(document.labels[0])
    document.accept(int(ids[-1]))
    only_here = ids[-1] not in document.labels[2]
    assert only_here
    assert len(of_document(document, (0,))) == 1
    assert len(of_document(document, (2,))) == 0


def test_only_what_differs_from_the_network_s_own_answer_is_a_correction():
    theirs = squares((10, 10), (10, 40), (10, 70))
    labels = theirs.copy()
    labels[labels == 3] = 0  # deleted
    labels[12, 12:20] = 0  # mended
    labels[60:70, 60:70] = 9  # drawn
    known = of_labels(labels, found_of(theirs, [0.95, 0.95, 0.7]))
    assert known.right.tolist() == [1, 9]
    assert known.sure.tolist() == [2]
    assert known.wrong.tolist() == [[70, 10, 80, 20]]


def test_labels_drawn_from_scratch_say_nothing_of_other_places():
    theirs = squares((10, 10), (10, 40))
    labels = squares((60, 60))
    known = of_labels(labels, found_of(theirs, [0.95, 0.7]))
    assert known.right.tolist() == [1]
    assert not len(known.wrong)
    complete = of_labels(labels, found_of(theirs, [0.95, 0.7]), complete=True)
    assert complete.wrong.tolist() == [[10, 10, 20, 20], [40, 10, 50, 20]]


def test_in_a_complete_image_what_the_network_found_as_well_is_right():
    theirs = squares((10, 10))
    known = of_labels(theirs, found_of(theirs, [0.6]), complete=True)
    assert known.right.tolist() == [1]


def test_labels_of_another_image_are_refused():
    with pytest.raises(UserError, match=r"shape \(50, 50\)"):
        of_labels(np.zeros((50, 50), int), found_of(squares((10, 10)), [0.9]))


def test_what_is_kept_aside_is_doubtful_to_the_rest():
    known = Corrections(
        squares((10, 10), (10, 40)), np.array([1, 2]), np.array([], np.int64), np.ones((2, 4), np.float32)
    )
    rest, aside = known.without([1, 3]), known.only([1, 3])
    assert rest.right.tolist() == [1]
    assert len(rest.wrong) == 1
    assert aside.right.tolist() == [2]
    assert len(aside.wrong) == 1
    assert np.array_equal(rest.labels, known.labels)


def test_windows_hold_all_corrections_and_leave_what_they_cut():
    places = [(20, 20), (60, 30), (900, 900), (920, 870), (500, 80)]
    labels = squares(*places, side=20, shape=(1000, 1000))
    wrong = np.array([[880, 880, 890, 890]], np.float32)
    known = Corrections(labels, np.array([1, 2, 3, 4, 5]), np.array([], np.int64), wrong)
    parts = list(windows(known, 200, 9))
    assert all(rows.stop - rows.start == 200 == columns.stop - columns.start for (rows, columns), _ in parts)
    assert sorted(np.concatenate([part.right for _, part in parts]).tolist()) == [1, 2, 3, 4, 5]
    assert sum(len(part.wrong) for _, part in parts) == 1
    for (rows, columns), part in parts:
        assert np.array_equal(part.labels, labels[rows, columns])
    assert len(list(windows(known, 200, 2))) == 2
    cut = known.within((slice(0, 30), slice(0, 200)))
    assert len(cut.right) == 0


def test_neighbouring_windows_do_not_share_a_correction():
    places = [(y, x) for y in range(5, 380, 40) for x in range(5, 380, 40)]
    known = Corrections(
        squares(*places, side=20, shape=(400, 400)),
        np.arange(1, 101),
        np.zeros(0, np.int64),
        np.zeros((0, 4), np.float32),
    )
    seen = np.concatenate([part.right for _, part in windows(known, 150, 50)])
    assert sorted(seen.tolist()) == list(range(1, 101))


def test_a_nucleus_longer_than_a_window_is_passed_over():
    known = Corrections(
        squares((10, 10), (300, 300), side=90, shape=(400, 400)),
        np.array([1, 2]),
        np.zeros(0, np.int64),
        np.zeros((0, 4), np.float32),
    )
    assert sum(len(part) for _, part in windows(known, 50, 9)) == 0


def test_highest_iou_of_boxes():
    boxes = np.array([[0, 0, 10, 10], [50, 50, 60, 60]], np.float32)
    others = np.array([[0, 0, 10, 5], [0, 0, 10, 8]], np.float32)
    assert np.allclose(highest_iou(boxes, others), [0.8, 0])
    assert highest_iou(boxes, others[:0]).tolist() == [0, 0]
