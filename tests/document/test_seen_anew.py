"""A newer look by other weights: what a person did stays, what is found again keeps its id."""

from dataclasses import replace

import numpy as np

from napari_deepretina.document.making import seen_anew
from tests.document.test_document import begun, stack
from tests.postprocess.test_votes import views_of


def worked_on():
    """A document in which one nucleus is accepted, one deleted, one drawn and one mended."""
    document = begun()
    first, second, third, *_ = document.present.tolist()
    document.accept(first)
    document.delete(second)
    painted = document.labels.copy()
    painted[:4, :4] = document.last_id + 1
    rows, columns = np.nonzero(painted == third)
    painted[rows[:2], columns[:2]] = 0
    document.take_pixels(painted)
    return document, first, second, third


def test_the_same_detections_change_nothing():
    document, *_ = worked_on()
    anew, told = seen_anew(document, {(): document.planes[()].raw})
    assert np.array_equal(anew.labels, document.labels)
    assert anew.nuclei == document.nuclei
    assert told == {"new": frozenset(), "changed": frozenset(), "gone": frozenset()}


def test_no_pixel_of_an_edited_nucleus_is_overwritten():
    document, first, second, third = worked_on()
    before = document.labels.copy()
    raw = document.planes[()].raw
    larger = raw.boxes + np.array([-2, -2, 2, 2], np.float32)
    anew, told = seen_anew(document, {(): replace(raw, boxes=larger)})
    drawn = document.last_id
    for label in (first, third, drawn):
        assert np.array_equal(anew.labels == label, before == label)
        assert anew.nuclei[label] == document.nuclei[label]
    assert not (anew.labels == second).any()
    assert anew.nuclei[second].state == "deleted"
    assert told["changed"]
    assert not (told["changed"] | told["new"] | told["gone"]) & {first, second, third, drawn}
    assert np.array_equal(document.labels, before)


def test_outlines_that_changed_are_told():
    document = begun()
    raw = document.planes[()].raw
    anew, told = seen_anew(
        document, {(): replace(raw, boxes=raw.boxes + np.array([-2, -2, 2, 2], np.float32))}
    )
    assert told["changed"]
    for label in told["changed"]:
        assert document.is_present(label)
        assert not np.array_equal(anew.labels == label, document.labels == label)


def test_what_was_deleted_does_not_come_back_with_a_slider():
    document, _, second, _ = worked_on()
    raw = document.planes[()].raw
    where = raw.boxes[document.planes[()].id_of == second]
    anew, _ = seen_anew(document, {(): replace(raw, scores=np.full_like(raw.scores, 0.9))})
    anew.retune(anew.settings.model_copy(update={"score": 0.05}))
    x0, y0, x1, y1 = where[0].astype(int)
    middle = anew.labels[(y0 + y1) // 2, (x0 + x1) // 2]
    assert middle == 0
    assert anew.nuclei[second].state == "deleted"


def test_new_and_gone_nuclei_are_told():
    document = begun()
    raw = document.planes[()].raw
    moved = raw.boxes.copy()
    sources = np.flatnonzero(document.planes[()].id_of)
    gone = document.planes[()].id_of[sources[0]]
    same = np.abs(raw.boxes - raw.boxes[sources[0]]).max(axis=1) < 12
    moved[same] += np.array([0, 60, 0, 60], np.float32)
    anew, told = seen_anew(document, {(): replace(raw, boxes=moved)})
    assert gone in told["gone"]
    assert gone not in anew.nuclei
    assert all(label > document.last_id for label in told["new"])
    assert set(anew.present.tolist()) == {i for i, n in anew.nuclei.items() if n.state != "deleted"}


def test_other_planes_of_a_stack_stay():
    document = stack()
    anew, _ = seen_anew(document, {(2,): views_of(9)})
    assert np.array_equal(anew.labels[:2], document.labels[:2])
    assert not np.array_equal(anew.labels[2], document.labels[2])
    anew.retune(anew.settings, (0,))
    assert np.array_equal(anew.labels[0] > 0, document.labels[0] > 0)
    assert set(anew.present.tolist()) == {i for i, n in anew.nuclei.items() if n.state != "deleted"}
