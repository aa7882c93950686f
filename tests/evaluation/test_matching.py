import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_deepretina.evaluation import THRESHOLDS, evaluate_set, match
from napari_deepretina.evaluation.scores import score_image
from tests.strategies import label_images, shapes


def brute_force_counts(truth, prediction, threshold):
    """Masks against masks, every pair."""
    trues = [truth == i for i in np.unique(truth) if i]
    preds = [prediction == i for i in np.unique(prediction) if i]
    tp = sum((t & p).sum() / (t | p).sum() > threshold for t in trues for p in preds if (t & p).any())
    return tp, len(preds) - tp, len(trues) - tp


pairs = shapes.flatmap(lambda s: st.tuples(label_images(st.just(s)), label_images(st.just(s))))


@given(pairs)
def test_counts_and_scores_equal_brute_force(two):
    truth, prediction = two
    matched = match(truth, prediction)
    ratios = []
    for threshold in THRESHOLDS:
        tp, fp, fn = brute_force_counts(truth, prediction, threshold)
        assert matched.counts(threshold) == (tp, fp, fn)
        ratios.append(tp / (tp + fp + fn) if tp + fp + fn else 1.0)
    assert score_image(matched).dsb_score == pytest.approx(np.mean(ratios))


@given(pairs)
def test_lists_are_complete_and_exclusive(two):
    truth, prediction = two
    matched = match(truth, prediction)
    hits = matched.hits(0.5)
    assert sorted([*hits[:, 0], *matched.missed()]) == np.unique(truth[truth > 0]).tolist()
    assert sorted([*hits[:, 1], *matched.extra()]) == np.unique(prediction[prediction > 0]).tolist()
    for true_id, t in zip(matched.true_ids, range(len(matched.true_ids)), strict=True):
        inside = [
            p
            for p in np.unique(prediction[prediction > 0])
            if ((prediction == p) & (truth == true_id)).sum() > 0.5 * (prediction == p).sum()
        ]
        found = dict(matched.split()).get(int(matched.true_ids[t]))
        assert found == (inside if len(inside) > 1 else None)


def test_a_perfect_and_an_empty_image_score_one():
    labels = np.array([[0, 5], [9, 9]], np.int32)
    nothing = np.zeros((2, 2), np.int32)
    report = evaluate_set([("same", labels, labels), ("none", nothing, nothing)])
    assert report.dsb_score == report.f1 == 1
    assert evaluate_set([("missed", labels, nothing)]).dsb_score == 0
    assert evaluate_set([("extra", nothing, labels)]).dsb_score == 0


def test_a_hit_needs_strictly_more_than_the_threshold():
    truth = np.array([[1, 1, 0]], np.int32)
    prediction = np.array([[1, 0, 0]], np.int32)  # IoU is exactly one half
    assert match(truth, prediction).counts(0.5) == (0, 1, 1)


def test_splits_and_merges_are_told():
    truth = np.array([[1, 1, 1, 1, 0, 2, 2, 3, 3]], np.int32)
    prediction = np.array([[4, 4, 6, 6, 0, 8, 8, 8, 8]], np.int32)
    matched = match(truth, prediction)
    assert matched.split() == [(1, [4, 6])]
    assert matched.merged() == [(8, [2, 3])]


def test_hand_made_score():
    truth = np.zeros((10, 10), np.int32)
    truth[:, :5], truth[:, 7:] = 1, 2
    prediction = np.zeros_like(truth)
    prediction[:, :4] = 3  # IoU 0.8 with object 1; object 2 is missed
    score = score_image(match(truth, prediction))
    assert score.ap == pytest.approx([0.5] * 6 + [0.0] * 4)
    assert score.f1 == pytest.approx([2 / 3] * 6 + [0.0] * 4)
    assert score.hits[0] == 1


def test_report_is_plain_json_and_consistent():
    rng = np.random.default_rng(0)
    images = [(str(i), rng.integers(0, 4, (9, 9)), rng.integers(0, 4, (9, 9))) for i in range(3)]
    report = evaluate_set(images)
    content = json.loads(json.dumps(report.to_json()))
    assert content["dsb_score"] == pytest.approx(np.mean(list(content["ap"].values())))
    assert content["dsb_score"] == pytest.approx(
        np.mean([i["dsb_score"] for i in content["per_image"].values()])
    )
    assert list(content["ap"]) == [f"{t:.2f}" for t in THRESHOLDS]
    assert "dsb_score" in report.table()


def test_misuse_is_told():
    labels = np.zeros((2, 2), int)
    with pytest.raises(ValueError, match="shape"):
        match(labels, np.zeros((2, 3), int))
    with pytest.raises(ValueError, match=r"at least 0\.5"):
        match(labels, labels).hits(0.3)
