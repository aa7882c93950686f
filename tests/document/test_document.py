"""One truth: ids, states and numbers, and every step undone to the byte."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_deepretina.document import Document, of_result
from napari_deepretina.errors import UserError
from napari_deepretina.instances import Instances
from napari_deepretina.postprocess import PostprocessSettings, postprocess
from tests.postprocess.test_votes import views_of

START = PostprocessSettings(votes=2)
EVERYTHING = PostprocessSettings(score=0.05, votes=1)
STRICT = PostprocessSettings(score=0.95, votes=3)


def begun(seed=7, chosen=START):
    """A document of five views."""
    raw = views_of(seed)
    instances = postprocess(raw, chosen)
    return of_result(instances.to_labels(), {(): (raw, instances, instances.ids)}, chosen)


def stack(chosen=START):
    """A document of three planes; object 1 lies in two of them."""
    made, used = {}, 0
    labels = np.zeros((3, 120, 120), np.int32)
    for z in range(3):
        raw = views_of(z)
        instances = postprocess(raw, chosen)
        ids = np.arange(used + 1, used + 1 + len(instances))
        if z == 1:
            ids[0] = 1
        used = int(ids.max())
        labels[z] = np.concatenate([[0], ids])[instances.to_labels()]
        made[(z,)] = raw, instances, ids
    return of_result(labels, made, chosen)


def content(document):
    """All that a step may change."""
    planes = {index: document.settings_of(index) for index in document.planes}
    return document.labels.tobytes(), dict(document.nuclei), planes


def consistent(document):
    """Pixels, records and sizes agree."""
    ids, areas = np.unique(document.labels[document.labels > 0], return_counts=True)
    known = document.known()
    assert known["index"].tolist() == document.present.tolist() == ids.tolist()
    assert known["area"].tolist() == areas.tolist()
    assert "deleted" not in known["state"].tolist()
    deleted = [i for i, n in document.nuclei.items() if n.state == "deleted"]
    assert not np.isin(document.labels, deleted).any()


def painted(document, rows, columns, label):
    pixels = document.labels.copy()
    pixels[..., rows, columns] = label
    return pixels


def test_what_a_run_found_is_known():
    document = begun()
    consistent(document)
    known = document.known()
    assert set(known["state"]) == {"found"}
    assert set(known["source"]) == {"network"}
    assert set(known["class"]) == {"nucleus"}
    assert (known["score"] > 0.5).all()
    assert (known["votes"] >= 2).all()
    assert not document.is_changed()
    assert document.reviewed() == (0, len(known["index"]))
    table = document.table({"c": np.ones((120, 120))}, pixel_size=(0.5, 0.5))
    assert list(table)[:7] == ["index", "state", "source", "score", "votes", "class", "area"]
    assert np.allclose(table["total_c"], table["area"])


def test_labels_without_records_were_drawn():
    labels = np.zeros((20, 20), np.int32)
    labels[2:5, 2:5] = 7
    document = Document(labels, START, {})
    assert document.known()["state"].tolist() == ["drawn"]
    assert document.known()["source"].tolist() == ["person"]
    assert np.isnan(document.known()["score"]).all()
    assert document.new_id() == 8
    labels[:] = 0
    assert document.labels.any(), "the document keeps a copy"
    with pytest.raises(UserError, match="nothing to tune"):
        document.retune(START)


def test_thresholds_keep_ids_and_the_numbers_of_each():
    document = begun()
    first = document.known()
    document.retune(EVERYTHING)
    more = document.known()
    assert set(first["index"]) < set(more["index"])
    document.retune(STRICT)
    assert len(document.present) < len(first["index"])
    document.retune(START)
    for name, column in first.items():
        assert np.array_equal(column, document.known()[name])


def test_no_nucleus_is_lost_to_painting_with_an_id_that_a_slider_took_away():
    """Score 0.05 → high → paint → 0.05."""
    document = begun(chosen=EVERYTHING)
    every = document.labels.copy()
    document.retune(STRICT)
    gone = next(i for i in np.unique(every[every > 0]).tolist() if not document.is_present(i))
    pixels = painted(document, slice(100, 104), slice(100, 104), gone)
    change = document.take_pixels(pixels)
    new = int(change.after[0])
    assert new != gone
    assert document.nuclei[new].state == "drawn"
    assert document.nuclei[new].source == "person"
    assert document.nuclei[new].score is None
    document.retune(EVERYTHING)
    free = np.ones(every.shape, bool)
    free[100:104, 100:104] = False
    assert np.array_equal(document.labels[free & (every > 0)], every[free & (every > 0)])
    consistent(document)


@pytest.mark.parametrize("label", [2**31 - 5, 3_000_000, -4])
def test_odd_ids_of_a_brush_become_ordinary_ones(label):
    document = begun()
    before = len(document.present)
    document.take_pixels(painted(document, slice(100, 104), slice(100, 104), label))
    assert len(document.present) == before + 1
    assert 0 < document.present.max() < 1000
    consistent(document)


def test_a_brush_may_choose_an_id_that_nobody_had():
    document = begun()
    document.take_pixels(painted(document, slice(100, 104), slice(100, 104), 500))
    assert document.is_present(500)
    assert document.new_id() == 501


def test_each_deed_says_what_became_of_whom():
    document = begun()
    a, b, c, d = document.present[:4].tolist()
    document.accept(a)
    document.delete(b)
    line = np.array([[r := np.argwhere(document.labels == c).mean(axis=0) - 20, r + 40]]).reshape(2, 2)
    change = document.split([c], line)
    half = int(change.after[0])
    states = {i: document.nuclei[i].state for i in (a, b, c, half)}
    assert states == {a: "accepted", b: "deleted", c: "edited", half: "edited"}
    assert document.nuclei[half].source == "person"
    assert document.nuclei[half].score is None
    assert document.nuclei[c].score is not None
    document.merge([half, d])
    assert document.nuclei[d].state == "deleted"
    assert document.nuclei[half].state == "edited"
    consistent(document)
    assert document.reviewed()[0] == 3
    document.retune(STRICT)
    assert document.is_present(a)
    assert document.is_present(c)
    assert document.is_present(half)
    document.retune(EVERYTHING)
    assert not document.is_present(b)
    assert not document.is_present(d)


def test_released_nuclei_follow_the_sliders_again():
    document = begun()
    label = int(document.present[0])
    before = document.labels.copy()
    pixels = document.labels.copy()
    pixels[0:3, 0:3] = label
    document.take_pixels(pixels)
    assert document.nuclei[label].state == "edited"
    document.release(label)
    assert document.nuclei[label].state == "found"
    assert np.array_equal(document.labels, before)
    document.undo()
    assert document.nuclei[label].state == "edited"
    assert np.array_equal(document.labels, pixels)
    drawn = int(document.take_pixels(painted(document, slice(100, 104), slice(100, 104), 900)).after[0])
    with pytest.raises(UserError, match="does not come from the sliders"):
        document.release(drawn)


def test_nuclei_mostly_under_a_kept_one_are_left_out():
    document = begun()
    pixels = document.labels.copy()
    ys, xs = np.nonzero(pixels == 2)
    drawn = document.last_id + 1
    pixels[ys.min() - 1 : ys.max(), xs.min() - 1 : xs.max() + 2] = drawn  # covers nearly all of it
    document.take_pixels(pixels)
    assert document.is_present(2)
    document.release(2)
    assert not document.is_present(2)
    assert document.is_present(drawn)


def test_accepted_nuclei_keep_their_shape():
    document = begun()
    before = document.labels == 3
    document.accept(3)
    document.retune(START.model_copy(update={"mask_threshold": 0.9, "score": 0.99}))
    assert np.array_equal(document.labels == 3, before)


def test_what_cannot_be_done_changes_nothing():
    document = begun()
    before = content(document)
    a = int(document.present[0])
    apart = np.array([[118.0, 118], [119, 119]])
    for deed in (
        lambda: document.delete(0), lambda: document.accept(10_000), lambda: document.merge([a]),
        lambda: document.merge([]), lambda: document.split([], apart), lambda: document.split([a], apart),
    ):  # fmt: skip
        with pytest.raises(UserError):
            deed()
    assert content(document) == before
    assert document.undo() is None
    assert document.redo() is None


def test_one_move_of_a_slider_is_one_step():
    document = begun()
    first = content(document)
    for score in (0.7, 0.8, 0.9):
        document.retune(START.model_copy(update={"score": score}), hand="score")
    moved = content(document)
    document.history.rest()
    document.retune(STRICT, hand="score")
    document.undo()
    assert content(document) == moved
    document.undo()
    assert content(document) == first
    document.redo()
    assert content(document) == moved
    document.accept(int(document.present[0]))
    assert document.redo() is None


def test_a_slider_that_changes_nothing_at_first_does_not_join_the_step_before():
    document = begun()
    document.accept(1)
    accepted = content(document)
    document.retune(START, hand="score")
    document.retune(STRICT, hand="score")
    document.undo()
    assert content(document) == accepted


def test_a_slider_that_comes_back_is_no_step():
    document = begun()
    document.retune(STRICT, hand="score")
    document.retune(START, hand="score")
    assert document.undo() is None


def test_a_second_look_replaces_only_what_nobody_looked_at():
    document = begun()
    a = int(document.present[0])
    document.accept(a)
    found = Instances.drawn([(100, 100, 110, 110)], [np.ones((10, 10), bool)], document.labels.shape)
    document.put_in((0, 0, 120, 120), found)
    assert document.is_present(a)
    assert len(document.present) == 2
    new = int(document.present[1])
    assert document.nuclei[new].source == "look again"
    document.retune(STRICT)
    assert document.is_present(new)
    consistent(document)


def test_objects_of_a_stack_are_whole():
    document = stack()
    before = content(document)
    assert (document.labels[0] == 1).any()
    assert (document.labels[1] == 1).any()
    document.delete(1)
    assert not (document.labels == 1).any()
    document.retune(EVERYTHING, (1,))
    assert not (document.labels == 1).any()
    assert document.settings_of((0,)) == START
    consistent(document)
    document.undo()
    document.undo()
    assert content(document) == before
    region = (slice(2, 3), slice(90, 120), slice(90, 120))
    pixels = document.labels.copy()
    pixels[2, 110:114, 110:114] = 999
    document.take_pixels(pixels, region)
    assert np.argwhere(document.labels == 999).min(axis=0).tolist() == [2, 110, 110]
    with pytest.raises(UserError, match="was not segmented"):
        document.retune(START, (7,))


def test_nuclei_that_a_slider_brings_into_a_stack_are_linked():
    raw, chosen = views_of(3), PostprocessSettings(votes=1)
    every, few = postprocess(raw, chosen), postprocess(raw, PostprocessSettings(votes=1, score=0.9))
    assert 0 < len(few) < len(every)
    labels = np.zeros((2, 120, 120), np.int32)
    labels[0] = every.to_labels()
    ids = every.ids[[int(np.flatnonzero(every.sources == s)[0]) for s in few.sources]]
    labels[1] = np.concatenate([[0], ids])[few.to_labels()]
    made = {(0,): (raw, every, every.ids), (1,): (raw, few, ids)}
    linked, apart = (of_result(labels, made, chosen, link=link) for link in (0.3, 0))
    for document in (linked, apart):
        document.retune(chosen, (1,))
    assert np.array_equal(linked.labels[1], linked.labels[0])
    assert len(linked.present) == len(every)
    assert len(apart.present) == 2 * len(every) - len(few)
    consistent(linked)


def deed(document, rng, kind):
    """One random step."""
    present = document.present.tolist() or [0]
    index = (int(rng.integers(0, 3)),) if document.labels.ndim == 3 else ()
    pick = int(rng.choice(present))
    ends = rng.uniform(0, 120, (2, 2))
    if kind == "accept":
        document.accept(pick)
    elif kind == "delete":
        document.delete(pick)
    elif kind == "release":
        document.release(pick)
    elif kind == "merge":
        document.merge(rng.choice(present, min(3, len(present)), replace=False))
    elif kind == "split":
        document.split([pick], ends, index)
    elif kind == "paint":
        pixels = document.labels.copy()
        y, x = rng.integers(0, 110, 2)
        pixels[(*index, slice(y, y + 9), slice(x, x + 9))] = rng.choice([0, pick, 1, 40, 77, 2**31 - 1])
        document.take_pixels(pixels)
    elif kind == "tune":
        values = {"score": float(rng.choice([0.05, 0.7, 0.9])), "votes": int(rng.integers(1, 5))}
        document.retune(START.model_copy(update=values), index, hand=str(rng.choice(["", "score"])))
    elif kind == "look":
        x, y = rng.integers(0, 80, 2).tolist()
        masks = [np.ones((6, 6), bool), np.ones((4, 9), bool)]
        found = Instances.drawn([(2, 2, 8, 8), (20, 20, 29, 24)], masks, (35, 35))
        document.put_in((x, y, x + 35, y + 35), found, index)
    elif kind == "undo":
        document.undo()
    else:
        document.redo()


KINDS = ("accept", "delete", "release", "merge", "split", "paint", "tune", "look", "undo", "redo")


@pytest.mark.parametrize("make", [begun, stack])
@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**16), kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=100))
def test_a_hundred_random_steps_can_be_undone_and_redone(make, seed, kinds):
    document, rng = make(), np.random.default_rng(seed)
    first = content(document)
    owners = {}
    for kind in kinds:
        try:
            deed(document, rng, kind)
        except UserError:
            continue
        for label, nucleus in document.nuclei.items():  # an id is never given to another nucleus
            assert owners.setdefault(label, nucleus.source) == nucleus.source
    consistent(document)
    while document.redo() is not None:
        pass
    last = content(document)
    while document.undo() is not None:
        consistent(document)
    assert content(document) == first
    while document.redo() is not None:
        pass
    assert content(document) == last
