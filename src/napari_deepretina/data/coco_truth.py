"""Any annotated images as COCO's truth, to be scored against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.data.sample import Annotations, Dataset, Sample, annotations_of
from napari_deepretina.instances import Instances
from napari_deepretina.instances.rle import coco_counts


def coco_truth(dataset: Dataset, places: Sequence[int], classes: Sequence[str]) -> dict[str, Any]:
    """Content of a COCO JSON file with the objects of some images, numbered from 1 in the order of `places`.

    Where a COCO file is behind them, objects are as it says. Else those that overlap are whole, and crowds
    have ``iscrowd`` and belong to every class.

    Parameters
    ----------
    classes : names of classes 1, 2, …
    """
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": k, "name": name} for k, name in enumerate(classes, start=1)],
    }
    for number, place in enumerate(places, start=1):
        known = annotations_of(dataset, place) or _drawn(dataset[place], len(classes))
        height, width = known.shape
        told = {"id": number, "file_name": dataset.names[place], "height": height, "width": width}
        content["images"].append(told)
        for annotation in known.objects:
            own = {"id": len(content["annotations"]) + 1, "image_id": number}
            content["annotations"].append({**annotation, **own})
    return content


def _drawn(sample: Sample, classes: int) -> Annotations:
    """Objects and crowds of label images."""
    height, width = sample.labels.shape
    objects = [
        {**told, "category_id": sample.class_of(label), "iscrowd": 0}
        for plane in sample.stack
        for label, told in _annotations(plane)
    ]
    if sample.crowds is not None:
        objects += [
            {**told, "category_id": category, "iscrowd": 1}
            for _, told in _annotations(sample.crowds)
            for category in range(1, classes + 1)
        ]
    return Annotations((height, width), objects)


def _annotations(labels: NDArray[np.int32]) -> list[tuple[int, dict[str, Any]]]:
    instances = Instances.from_labels(labels)
    boxes, ids = instances.tight_boxes().tolist(), instances.ids.tolist()
    told = []
    for place, (window, mask) in enumerate(instances):
        x0, y0, x1, y1 = boxes[place]
        shape = {
            "size": list(labels.shape),
            "counts": coco_counts(mask, (window[0].start, window[1].start), labels.shape),
        }
        annotation = {"segmentation": shape, "area": int(mask.sum()), "bbox": [x0, y0, x1 - x0, y1 - y0]}
        told.append((ids[place], annotation))
    return told
