"""Equality with the outputs of the original programs, stored with the reference data."""

from pathlib import Path

import numpy as np
import pytest

from napari_deepretina.instances import Instances, rle
from napari_deepretina.postprocess.original import finish, merge_views, priorities, remove_duplicates

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference"


@pytest.fixture(scope="module")
def reference():
    if not (REFERENCE / "deepretina_reference.npz").is_file():
        pytest.skip("the outputs of the original are not here")
    return np.load(REFERENCE / "deepretina_reference.npz"), np.load(REFERENCE / "matterport_reference.npz")


def stack(file, name):
    """(H, W, N) bool."""
    shape = tuple(file[f"{name}_shape"])
    return np.unpackbits(file[f"{name}_packed"])[: np.prod(shape)].reshape(shape).astype(bool)


def instances_of(masks, scores=None):
    """Instances with tight frames; an empty mask keeps its place with an empty frame."""
    boxes, crops = [], []
    for mask in masks.transpose(2, 0, 1):
        ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = (xs[0], ys[0], xs[-1] + 1, ys[-1] + 1) if len(ys) else (0, 0, 0, 0)
        boxes.append(box)
        crops.append(mask[box[1] : box[3], box[0] : box[2]].copy())
    n = len(crops)
    scores = np.ones(n, np.float32) if scores is None else scores
    return Instances(
        np.array(boxes, np.int64).reshape(n, 4), tuple(crops), scores, np.ones(n, np.int32), masks.shape[:2]
    )


def full(instances):
    """(H, W, N) bool."""
    frames = np.zeros((*instances.shape, len(instances)), bool)
    for i, (window, mask) in enumerate(instances):
        frames[(*window, i)] = mask
    return frames


def masks_of(reference, case):
    ours, matterport = reference
    return (
        stack(matterport, f"{case[3]}_result_masks") if case.startswith("net") else stack(ours, f"{case}_in")
    )


RANDOM = ("rand24", "rand24_unsorted_scores", "rand9_dup_empty", "small3")
KINDS = {
    "plain": {},
    "dil": {"dilation": 1},
    "scores": {"by_score": True},
    "dil_scores": {"dilation": 1, "by_score": True},
    "thr0.3": {"threshold": 0.3},
}


@pytest.mark.parametrize("case", [*RANDOM, "netA", "netB"])
def test_priorities(reference, case):
    file = reference[0]
    assert np.array_equal(priorities(file[f"{case}_scores"]), file[f"{case}_order_by_scores"])
    areas = masks_of(reference, case).sum((0, 1))
    expected = file[f"{case}_order_by_area"]
    # where areas tie, the order was that of NumPy 1.14's sort: only the areas must agree
    assert np.array_equal(areas[priorities(areas) - 1], areas[expected - 1])


@pytest.mark.parametrize(
    ("case", "kind"),
    [(c, k) for c in RANDOM for k in KINDS]
    + [(c, k) for c in ("netA", "netB") for k in ("scores", "dil_scores", "thr0.3")],
)
def test_encoding(reference, case, kind, monkeypatch):
    file = reference[0]
    if case.startswith("net") and "scores" not in kind:  # ties: take the order that was used then
        stored = file[f"{case}_order_by_area"]
        monkeypatch.setattr("napari_deepretina.postprocess.original.priorities", lambda _: stored)
    found = finish(instances_of(masks_of(reference, case), file[f"{case}_scores"]), **KINDS[kind])
    assert rle.encode(found) == file[f"{case}_rle_{kind}"].tolist()
    expected = stack(file, f"{case}_out_{kind}")
    assert np.array_equal(full(found), expected[:, :, expected.any((0, 1))])


@pytest.mark.parametrize("case", RANDOM)
@pytest.mark.parametrize(
    ("name", "how"), [("area", {}), ("scores", {"by_score": True}), ("area_t0.2", {"threshold": 0.2})]
)
def test_remove_duplicates(reference, case, name, how):
    file = reference[0]
    given = instances_of(stack(file, f"{case}_in"), file[f"{case}_scores"])
    found = full(remove_duplicates(given, **how))
    assert np.array_equal(found, stack(file, f"{case}_remove_duplicate_{name}"))


VOTES = {"ens6_threshold_rem1": 1, "pair_ge1": 0, "pair_both": 1}
ENSEMBLES = (
    "ens1", "ens2_empties_dups", "ens3_all_false", "ens4_only_three_found", "ens5_one_found",
    "ens6_threshold_rem1", "pair_ge1", "pair_both",
)  # fmt: skip


def views_of(file, case):
    shape = next(
        (tuple(file[k][:2]) for k in file.files if k.startswith(f"{case}_in") and "shape" in k), (9, 9)
    )
    return [
        Instances.empty(shape) if missing else instances_of(stack(file, f"{case}_in{j}"))
        for j, missing in enumerate(file[f"{case}_is_false"])
    ]


@pytest.mark.parametrize("case", ENSEMBLES)
def test_merging_views(reference, case):
    file = reference[0]
    merged = merge_views(views_of(file, case), votes_above=VOTES.get(case, 4))
    if f"{case}_thresholded_before_encoding_shape" in file.files:
        assert np.array_equal(full(merged), stack(file, f"{case}_thresholded_before_encoding"))
    found = rle.encode(finish(merged)) or [""]
    assert found == file[f"{case}_rle"].tolist()
    assert [f"{case},{string}" for string in found][:3] == file[f"{case}_csv_columns"].tolist()


def test_a_mask_that_fills_the_image_does_not_stop_us(reference):
    merged = merge_views(views_of(reference[0], "ens7_no_background"))
    assert [m.all() for m in merged.masks] == [True]


def test_votes_and_no_views_at_all():
    one = instances_of(np.ones((3, 3, 1), bool))
    merged = merge_views([one] * 6)
    assert merged.votes.tolist() == [6]
    assert len(merge_views([Instances.empty((3, 3))] * 2)) == 0
