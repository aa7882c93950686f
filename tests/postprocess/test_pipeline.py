import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from napari_deepretina.instances import Instances, RawInstances
from napari_deepretina.postprocess import PostprocessSettings, overlaps, postprocess
from napari_deepretina.postprocess.masks import place_masks
from napari_deepretina.postprocess.overlaps import resolve_overlaps


def raw_of(rows, shape=(40, 50), value=255):
    """Rows of (x0, y0, x1, y1, score) with full masks."""
    n = len(rows)
    return RawInstances(
        boxes=np.array([r[:4] for r in rows], np.float32).reshape(n, 4),
        scores=np.array([r[4] for r in rows], np.float32),
        masks=np.full((n, 28, 28), value, np.uint8),
        classes=np.ones(n, np.int32),
        views=np.zeros(n, np.int32),
        tiles=np.zeros(n, np.int32),
        shape=shape,
    )


def test_full_masks_fill_their_boxes():
    labels = postprocess(raw_of([(3, 4, 13, 9, 0.9), (20, 10, 45, 35, 0.8)])).to_labels()
    assert (labels[4:9, 3:13] == 1).all()
    assert (labels[10:35, 20:45] == 2).all()
    assert np.count_nonzero(labels) == 5 * 10 + 25 * 25


def test_nothing_found_works():
    for raw in (RawInstances.empty((7, 9)), raw_of([(1, 1, 5, 5, 0.1)], (7, 9))):
        instances = postprocess(raw)
        assert len(instances) == 0
        assert instances.to_labels().shape == (7, 9)


def test_settings_do_what_they_say():
    raw = raw_of([(0, 0, 10, 10, 0.9), (5, 0, 15, 10, 0.7), (30, 30, 32, 31, 0.6)])

    def count(**values):
        return len(postprocess(raw, PostprocessSettings(**values)))

    assert count() == 1  # the second overlaps the first, the third has 2 pixels
    assert count(min_area=1) == 2
    assert count(nms=0.9, min_area=1) == 3
    assert count(score=0.65, nms=0.9) == 2
    assert count(nms=0.9, max_lost=0.4) == 1
    assert count(nms=0.9, min_area=51) == 1


def test_dilation_grows_by_the_cross_and_stops_at_the_border():
    labels = postprocess(raw_of([(0, 5, 4, 9, 0.9)]), PostprocessSettings(dilation=1)).to_labels()
    assert labels[4, :4].all()
    assert labels[9, :4].all()
    assert labels[5:9, :5].all()
    assert not labels[4, 4]
    assert np.count_nonzero(labels) == 16 + 4 + 4 + 4


def test_unknown_and_impossible_settings_are_errors():
    for bad in ({"scor": 0.5}, {"score": 2}, {"dilation": 99}, {"mask_threshold": 0}):
        with pytest.raises(ValidationError):
            PostprocessSettings(**bad)


def test_a_half_mask_is_cut_in_the_middle():
    mask = np.zeros((1, 28, 28), np.uint8)
    mask[:, :, :14] = 255
    frames, placed = place_masks(mask, np.array([[10, 10, 30, 20]], np.float32), (40, 40), 0.5)
    assert frames.tolist() == [[10, 10, 30, 20]]
    assert placed[0][:, :10].all()
    assert not placed[0][:, 10:].any()


@given(st.floats(-5, 45), st.floats(-5, 35), st.floats(0.2, 30), st.floats(0.2, 30))
def test_masks_stay_inside_box_and_image(x, y, w, h):
    box = np.array([[x, y, x + w, y + h]], np.float32)
    frames, placed = place_masks(np.full((1, 28, 28), 255, np.uint8), box, (30, 40), 0.5)
    x0, y0, x1, y1 = frames[0]
    assert placed[0].shape == (y1 - y0, x1 - x0)
    assert 0 <= x0 <= x1 <= 40
    assert 0 <= y0 <= y1 <= 30
    ys, xs = np.nonzero(placed[0])
    # a pixel belongs to the box if its centre does; thin boxes keep the pixels they touch
    if w > 1 and h > 1:
        assert ((xs + x0 + 0.5 >= x - 1e-3) & (xs + x0 + 0.5 <= x + w + 1e-3)).all()
        assert ((ys + y0 + 0.5 >= y - 1e-3) & (ys + y0 + 0.5 <= y + h + 1e-3)).all()


def test_dropped_nuclei_give_their_pixels_back():
    frame = np.array([[0, 0, 4, 1], [0, 0, 5, 1], [3, 0, 6, 1]], np.int64)
    masks = tuple(np.ones((1, x1 - x0), bool) for x0, _, x1, _ in frame)
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    three = Instances(frame, masks, scores, np.ones(3, np.int32), (1, 6))
    kept, index = resolve_overlaps(three, max_lost=0.7)
    assert index.tolist() == [0, 2]  # the second would lose four fifths
    assert kept.to_labels().tolist() == [[1, 1, 1, 1, 2, 2]]


@given(st.integers(0, 2**32 - 1))
def test_wide_images_keep_what_is_taken_as_bits(seed):
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 20, (12, 2))
    boxes = np.concatenate([corner, np.minimum(corner + rng.integers(1, 12, (12, 2)), (29, 25))], axis=1)
    masks = tuple(rng.random((b[3] - b[1], b[2] - b[0])) < 0.8 for b in boxes)
    classes = rng.integers(1, 3, 12).astype(np.int32)
    given = Instances(boxes, masks, rng.random(12).astype(np.float32), classes, (25, 29))
    usual, index = resolve_overlaps(given, max_lost=0.7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlaps, "WIDE", 0)
        wide, same = resolve_overlaps(given, max_lost=0.7)
    assert np.array_equal(index, same)
    assert all(np.array_equal(a, b) for a, b in zip(usual.masks, wide.masks, strict=True))


@given(st.integers(0, 2**32 - 1))
def test_resolved_instances_are_disjoint_and_loyal(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 8))
    x0, y0 = rng.integers(0, 10, n), rng.integers(0, 10, n)
    boxes = np.stack([x0, y0, x0 + rng.integers(1, 6, n), y0 + rng.integers(1, 6, n)], axis=1)
    masks = tuple(rng.random((b[3] - b[1], b[2] - b[0])) < 0.8 for b in boxes)
    scores = rng.random(n).astype(np.float32)
    given = Instances(boxes.reshape(-1, 4), masks, scores, np.ones(n, np.int32), (16, 16))
    kept, index = resolve_overlaps(given, max_lost=0.7)
    covered = np.zeros((16, 16), int)
    for window, mask in kept:
        covered[window] += mask
    assert covered.max(initial=0) <= 1
    assert (np.diff(kept.scores) <= 0).all()
    for place, origin in enumerate(index):
        assert not (kept.masks[place] & ~given.masks[origin]).any()
        assert kept.masks[place].sum() >= 0.3 * given.masks[origin].sum() - 1e-9
