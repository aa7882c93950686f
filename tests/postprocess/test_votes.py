import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from napari_deepretina.instances import RawInstances
from napari_deepretina.postprocess import PostprocessSettings, masks, pairs, postprocess
from napari_deepretina.postprocess.masks import grow, place_masks, without_holes
from napari_deepretina.postprocess.pairs import close_pairs, overlapping_pairs
from napari_deepretina.postprocess.pipeline import Postprocessor


def boxes_of(seed, n=60, size=40):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, size, (n, 2))
    return np.concatenate([corner, corner + rng.choice([0, 1, 5, 9, 20], (n, 2))], axis=1).astype(np.float32)


def brute_force(boxes, groups):
    found = {}
    for i in range(len(boxes)):
        for j in range(i + 1, len(boxes)):
            a, b = boxes[i].astype(float), boxes[j].astype(float)
            shared = np.prod(np.maximum(0, np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])))
            if shared and groups[i] == groups[j]:
                found[i, j] = shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared)
    return found


def as_dict(found):
    return dict(zip(zip(found.first.tolist(), found.second.tolist(), strict=True), found.iou, strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_all_overlapping_pairs_are_found(seed, monkeypatch):
    monkeypatch.setattr(pairs, "_AT_ONCE", 40)
    boxes = boxes_of(seed)
    groups = np.random.default_rng(seed).integers(0, 3, len(boxes)).astype(np.int32)
    for given_groups, used in ((None, np.zeros(len(boxes), int)), (groups, groups)):
        found = as_dict(overlapping_pairs(boxes, given_groups))
        assert found == pytest.approx(brute_force(boxes, used))


@pytest.mark.parametrize("min_iou", [0.1, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("seed", range(4))
def test_all_close_pairs_are_found(seed, min_iou):
    boxes = np.concatenate([boxes_of(seed), boxes_of(seed) + 0.3]).astype(np.float32)
    expected = brute_force(boxes, np.zeros(len(boxes), int))
    found = as_dict(close_pairs(boxes, min_iou))
    assert found == pytest.approx({k: v for k, v in expected.items() if v >= min_iou})


def test_no_boxes_no_pairs():
    none = np.zeros((0, 4), np.float32)
    assert len(overlapping_pairs(none).iou) == len(close_pairs(none, 0.5).iou) == 0


@given(st.integers(0, 2**32 - 1), st.integers(-3, 3))
def test_masks_grow_and_shrink_as_scipy_does(seed, times):
    rng = np.random.default_rng(seed)
    mask = rng.random((9, 11)) < 0.6
    whole = np.array([[0, 0, 11, 9]])
    found = grow(mask[None], whole, times, (9, 11))[0]
    cross = ndimage.generate_binary_structure(2, 1)
    if times > 0:
        assert np.array_equal(found, ndimage.binary_dilation(mask, cross, times))
    elif times < 0:
        assert np.array_equal(found, ndimage.binary_erosion(mask, cross, -times, border_value=1))


def test_erosion_stops_at_the_image_border_only():
    mask = np.full((1, 28, 28), 255, np.uint8)
    frames, placed = place_masks(mask, np.array([[0, 3, 6, 9]], np.float32), (9, 20), 0.5, dilation=-1)
    assert frames.tolist() == [[0, 3, 6, 9]]
    expected = np.zeros((6, 6), bool)
    expected[1:, :5] = True  # the left and lower sides lie on the border
    assert np.array_equal(placed[0], expected)


@pytest.mark.parametrize("seed", range(3))
def test_holes_are_filled(seed):
    mask = np.random.default_rng(seed).random((20, 20)) < 0.7
    assert np.array_equal(without_holes(mask), ndimage.binary_fill_holes(mask))
    disc = np.hypot(*(np.mgrid[:9, :9] - 4)) < 4
    assert without_holes(disc) is disc


def views_of(seed, views=5, objects=12, size=120):
    """The same nuclei, shaken, in several views; some missing, some invented."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(4), np.arange(3)), -1).reshape(-1, 2) * 28 + 8.0
    true = np.concatenate([grid, grid + 18], axis=1)[:objects]
    rows, view = [], []
    for v in range(views):
        seen = true[rng.random(len(true)) < 0.8] + rng.uniform(-1, 1, 4)
        invented = np.concatenate([c := rng.uniform(0, size - 30, (2, 2)), c + 12], axis=1)
        rows.append(np.concatenate([seen, invented]))
        view += [v] * len(rows[-1])
    boxes = np.concatenate(rows).astype(np.float32)
    n = len(boxes)
    y, x = np.mgrid[:28, :28] - 13.5
    return RawInstances(
        boxes=boxes,
        scores=rng.permutation(np.linspace(0.6, 0.99, n)).astype(np.float32),
        masks=np.repeat(((np.hypot(y, x) < 13) * 255).astype(np.uint8)[None], n, axis=0),
        classes=np.ones(n, np.int32),
        views=np.array(view, np.int32),
        tiles=np.zeros(n, np.int32),
        shape=(size, size),
        view_count=views,
    )


SETTINGS = PostprocessSettings(votes=3, nms=0.3)


@pytest.mark.parametrize("seed", range(5))
def test_votes_do_not_depend_on_the_order_of_views(seed):
    raw = views_of(seed)
    renamed = np.random.default_rng(seed).permutation(5)[raw.views].astype(np.int32)
    shuffled = RawInstances(**{**vars(raw), "views": renamed})
    expected = postprocess(raw, SETTINGS)
    assert np.array_equal(postprocess(shuffled, SETTINGS).to_labels(), expected.to_labels())
    assert (expected.votes >= 3).all()
    assert len(expected) <= 12


def test_pixels_with_enough_votes_stay():
    raw = views_of(1)
    for votes in range(1, 6):
        settings = PostprocessSettings(votes=votes, nms=0.3, max_lost=1, min_area=1, dilation=0)
        found = postprocess(raw, settings)
        for (window, mask), source in zip(found, found.sources, strict=True):
            group = np.flatnonzero(
                np.abs(raw.boxes - raw.boxes[source]).max(axis=1) < 6
            )  # shaken by less than that
            total = np.zeros(raw.shape, int)
            for i in group:
                frame, placed = place_masks(raw.masks[[i]], raw.boxes[[i]], raw.shape, 0.5)
                x0, y0, x1, y1 = frame[0]
                total[y0:y1, x0:x1] += placed[0]
            assert (total[window][mask] >= votes).all()


@pytest.mark.parametrize(
    ("method", "views", "votes"), [("corrected", 5, 3), ("corrected", 4, 3), ("original", 5, 2)]
)
def test_more_than_half_of_the_views_decide_where_nobody_says_otherwise(method, views, votes):
    raw = views_of(6)
    usual = postprocess(raw, PostprocessSettings(method=method, views=views)).to_labels()
    said = [
        postprocess(raw, PostprocessSettings(method=method, views=views, votes=n)).to_labels()
        for n in (votes - 1, votes, votes + 1)
    ]
    assert [np.array_equal(usual, labels) for labels in said] == [False, True, False]


def test_batches_do_not_change_the_result(monkeypatch):
    raw = views_of(2)
    expected = postprocess(raw, SETTINGS).to_labels()
    monkeypatch.setattr(masks, "_FLOATS_AT_ONCE", 3000)  # groups are torn apart
    assert np.array_equal(postprocess(raw, SETTINGS).to_labels(), expected)


def test_a_postprocessor_answers_as_a_fresh_one():
    raw = views_of(3)
    kept = Postprocessor(raw)
    for values in (
        {}, {"score": 0.7}, {"score": 0.7, "votes": 1}, {"nms": 0.9}, {"merge_iou": 0.8}, {"views": 1},
        {"views": 2}, {"method": "original"}, {"mask_threshold": 0.2, "dilation": -1}, {"fill_holes": True},
        {"drop_border": True}, {"max_area": 100}, {},
    ):  # fmt: skip
        settings = PostprocessSettings(**values)
        assert np.array_equal(kept(settings).to_labels(), postprocess(raw, settings).to_labels()), values


def test_sources_name_the_raw_detection():
    raw = views_of(4)
    for method in ("corrected", "original"):
        for views in (1, 5):
            found = postprocess(raw, PostprocessSettings(method=method, views=views, votes=1))
            assert len(set(found.sources.tolist())) == len(found) > 0
            for (rows, columns), source in zip([w for w, _ in found], found.sources, strict=True):
                x0, y0, x1, y1 = raw.boxes[source]
                assert x0 < columns.stop
                assert columns.start < x1
                assert y0 < rows.stop
                assert rows.start < y1


def test_sizes_and_borders_are_chosen():
    raw = views_of(5, views=1)
    everything = postprocess(raw, PostprocessSettings(votes=1))
    areas = everything.areas
    middle = int(np.median(areas))
    assert (postprocess(raw, PostprocessSettings(max_area=middle)).areas <= middle).all()
    labels = postprocess(raw, PostprocessSettings(drop_border=True)).to_labels()
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    assert not edge.any()
