import numpy as np
import pytest
from hypothesis import given

from napari_deepretina.instances import Instances, bounding_boxes, relabel_sequential
from napari_deepretina.instances.labels import labels_from_masks, ranked
from tests.strategies import label_images


@given(label_images())
def test_relabelling_keeps_objects_and_order(labels):
    new = relabel_sequential(labels)
    assert new.dtype == np.int32
    ids = np.unique(labels[labels > 0])
    assert np.array_equal(np.unique(new[new > 0]), np.arange(1, len(ids) + 1))
    for number, old in enumerate(ids, start=1):
        assert np.array_equal(new == number, labels == old)


@given(label_images())
def test_ranks_are_those_of_numpy(labels):
    high = labels.astype(np.uint64) * 10**15
    for each in (labels, np.stack([labels, 3 * labels]), labels - 2, labels[:0], labels > 0, high):
        ids, ranks, counts = ranked(each)
        expected = np.unique(each, return_inverse=True, return_counts=True)
        assert ids.dtype == each.dtype
        assert ids.tolist() == expected[0].tolist()
        assert np.array_equal(ranks, expected[1].reshape(each.shape))
        assert counts.tolist() == expected[2].tolist()


@given(label_images())
def test_boxes_are_tight(labels):
    ids, boxes = bounding_boxes(labels)
    assert ids.tolist() == np.unique(labels[labels > 0]).tolist()
    for i, (x0, y0, x1, y1) in zip(ids, boxes, strict=True):
        ys, xs = np.nonzero(labels == i)
        assert (x0, y0, x1, y1) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


@given(label_images())
def test_instances_from_labels_paint_the_same_picture(labels):
    instances = Instances.from_labels(labels)
    assert np.array_equal(instances.to_labels(), labels)
    assert np.array_equal(instances[:].to_labels(), relabel_sequential(labels))
    assert instances.areas.sum() == np.count_nonzero(labels)


def test_instances_filter_every_field_together():
    labels = np.array([[1, 0, 2], [1, 3, 0]], np.int32)
    instances = Instances.from_labels(labels)
    kept = instances[instances.areas == 1]
    assert len(kept) == 2
    assert kept.boxes.tolist() == [[2, 0, 3, 1], [1, 1, 2, 2]]
    assert len(kept.scores) == len(kept.classes) == 2
    assert len(instances[:0]) == 0


def test_instances_refuse_fields_of_different_length():
    with pytest.raises(ValueError, match="differ in length"):
        Instances(np.zeros((1, 4), int), (), np.zeros(1, np.float32), np.zeros(1, np.int32), (2, 2))


def test_first_mask_keeps_a_shared_pixel():
    first, second = np.zeros((2, 3, 3), bool)
    first[1], second[:, 1] = True, True
    assert labels_from_masks([first, second], (3, 3)).tolist() == [[0, 2, 0], [1, 1, 1], [0, 2, 0]]
    with pytest.raises(ValueError, match="mask 1"):
        labels_from_masks([first], (2, 2))
