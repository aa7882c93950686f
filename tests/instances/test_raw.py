import numpy as np
import pytest

from napari_deepretina.instances import RawInstances


def raw(n, shape=(20, 30), **changes):
    fields = {
        "boxes": np.arange(4 * n, dtype=np.float32).reshape(n, 4),
        "scores": np.linspace(1, 0, n, dtype=np.float32),
        "masks": np.zeros((n, 28, 28), np.uint8),
        "classes": np.ones(n, np.int32),
        "views": np.zeros(n, np.int32),
        "tiles": np.zeros(n, np.int32),
        "shape": shape,
    }
    return RawInstances(**(fields | changes))


def test_selection_keeps_fields_together():
    kept = raw(5)[np.array([3, 1])]
    assert kept.boxes[:, 0].tolist() == [12, 4]
    assert kept.scores.tolist() == pytest.approx([0.25, 0.75])
    assert kept.shape == (20, 30)


def test_concatenation_and_its_conditions():
    joined = RawInstances.concatenate([raw(2), RawInstances.empty((20, 30)), raw(3)])
    assert len(joined) == 5
    with pytest.raises(ValueError, match="different images"):
        RawInstances.concatenate([raw(1), raw(1, shape=(9, 9))])
    with pytest.raises(ValueError, match="nothing to concatenate"):
        RawInstances.concatenate([])


def test_fields_must_fit():
    with pytest.raises(ValueError, match="differ in length"):
        raw(2, scores=np.zeros(3, np.float32))
    with pytest.raises(ValueError, match=r"\(N, 4\)"):
        raw(2, boxes=np.zeros((2, 5), np.float32))


def test_a_thousand_nuclei_in_fifteen_views_stay_small():
    assert raw(15_000).nbytes < 13e6
