import numpy as np
import pytest

from napari_deepretina.errors import UserError
from napari_deepretina.instances import Instances, editing
from napari_deepretina.postprocess import PostprocessSettings, postprocess
from napari_deepretina.postprocess.tuning import TuneSession
from tests.postprocess.test_votes import views_of

START = PostprocessSettings(votes=2)


@pytest.fixture
def begun():
    """A session on five views, and the labels that it starts from."""
    raw = views_of(7)
    instances = postprocess(raw, START)
    labels = instances.to_labels()
    return TuneSession(raw, labels, instances.sources), labels, instances


def same_place(one, other, label):
    return np.array_equal(one == label, other == label)


def test_the_same_settings_give_the_same_labels(begun):
    session, labels, _ = begun
    again = session.retune(START, labels)
    assert np.array_equal(again, labels)
    assert again is not labels


def test_ids_stay_with_their_nuclei(begun):
    session, labels, instances = begun
    sources = {int(s): i for i, s in enumerate(instances.sources, start=1)}
    current = labels
    for values in (
        {"score": 0.7},
        {"votes": 1},
        {"nms": 0.6},
        {"mask_threshold": 0.3},
        {"votes": 5},
        {"votes": 2},
    ):
        settings = START.model_copy(update=values)
        current = session.retune(settings, current)
        for label, source in zip(session.ids.tolist(), session.instances.sources.tolist(), strict=True):
            assert sources.setdefault(source, label) == label
    assert len(set(sources.values())) == len(sources)
    assert np.array_equal(current, labels)


def test_touched_nuclei_survive_and_deleted_ones_stay_away(begun):
    session, labels, _ = begun
    current = labels.copy()
    current[labels == 1] = 0
    grown = np.zeros_like(labels, bool)
    ys, xs = np.nonzero(labels == 2)
    grown[ys.min() : ys.max() + 3, xs.min() : xs.max() + 3] = True
    current[grown] = 2
    drawn = session.new_id(current)
    current[0:2, 60:64] = drawn
    for values in ({"votes": 1}, {"score": 0.95}, {"dilation": 2}, {"votes": 2}):
        current = session.retune(START.model_copy(update=values), current)
        assert not (current == 1).any()
        assert np.array_equal(current == 2, grown)
        assert (current == drawn).sum() == 8
    table = session.table(current)
    state = dict(zip(table["label"].tolist(), table["state"].tolist(), strict=True))
    assert state[2] == state[drawn] == "edited"
    assert 1 not in state
    assert "automatic" in state.values()
    session.release(1)
    session.release(2)
    current = session.retune(START, current)
    for label in (1, 2):
        assert same_place(current, labels, label) or (current == drawn).any()


def test_accepted_nuclei_keep_their_shape(begun):
    session, labels, _ = begun
    session.accepted.add(3)
    current = session.retune(START.model_copy(update={"mask_threshold": 0.9, "score": 0.99}), labels)
    assert same_place(current, labels, 3)


def test_nuclei_mostly_under_a_kept_one_are_left_out(begun):
    session, labels, _ = begun
    current = labels.copy()
    ys, xs = np.nonzero(labels == 2)
    drawn = session.new_id(current)
    current[ys.min() - 1 : ys.max() + 1, xs.min() - 1 : xs.max() + 2] = drawn  # covers nearly all of it
    session.touched.discard(2)
    session.look(current)
    session.release(2)
    current = session.retune(START, current)
    assert not (current == 2).any()
    assert (current == drawn).any()


def test_the_table_sorts_the_doubtful_first(begun):
    session, labels, _ = begun
    current = session.retune(START, labels)
    session.accepted.add(int(session.table(current)["label"][0]))
    table = session.table(current)
    automatic = table["state"] == "automatic"
    assert automatic[:-1].all()
    assert (np.diff(table["confidence"][automatic]) >= 0).all()
    for label, area, x, y in zip(table["label"], table["area"], table["x"], table["y"], strict=True):
        ys, xs = np.nonzero(current == label)
        assert area == len(ys)
        assert (y, x) == pytest.approx((ys.mean(), xs.mean()))


SQUARES = np.kron(np.array([[1, 0, 2], [0, 3, 0]]), np.ones((4, 4), int)).astype(np.int32)


def applied(change):
    labels = SQUARES.copy()
    indices, values = change
    labels[indices] = values
    return labels


def test_delete_merge_and_split():
    assert set(np.unique(applied(editing.delete(SQUARES, 2)))) == {0, 1, 3}
    merged = applied(editing.merge(SQUARES, np.array([3, 1])))
    assert (merged[SQUARES == 1] == 3).all()
    halves = applied(editing.split(SQUARES, 1, np.array([[-1, 0.5], [9, 0.5]]), 9))
    assert (halves[:4, 0] == 9).all()
    assert (halves[:4, 1:4] == 1).all()


def test_ids_under_a_line_in_its_order():
    assert editing.ids_under(SQUARES, np.array([[1.0, 10], [1, -3]])).tolist() == [2, 1]
    assert editing.ids_under(SQUARES, np.array([[50.0, 50], [60, 60]])).tolist() == []


def test_what_cannot_be_done_is_told():
    for label in (0, 77):
        with pytest.raises(UserError, match="choose a nucleus"):
            editing.delete(SQUARES, label)
    with pytest.raises(UserError, match="at least two"):
        editing.merge(SQUARES, np.array([1]))
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
