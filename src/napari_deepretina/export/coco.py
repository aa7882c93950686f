"""COCO JSON: images, categories and annotations with column-wise run lengths."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_deepretina.export.outlines import outlines
from napari_deepretina.files import written_whole
from napari_deepretina.instances import Instances
from napari_deepretina.instances.rle import coco_counts


def write_coco(
    images: Iterable[tuple[str, Instances]],
    path: Path,
    classes: Sequence[str] = ("nucleus",),
    *,
    polygons: bool = False,
) -> None:
    """Write the objects of several images; see `coco_content`."""
    content = coco_content(images, classes, polygons=polygons)
    with written_whole(path) as part:
        part.write_text(json.dumps(content), "utf-8")


def coco_content(
    images: Iterable[tuple[str, Instances]],
    classes: Sequence[str] = ("nucleus",),
    *,
    polygons: bool = False,
) -> dict[str, Any]:
    """The objects of several images as COCO keeps them.

    Segmentations are uncompressed RLE (``counts`` as a list), exact to the pixel, or polygons around
    each piece, without holes. ``bbox`` is x, y, width, height of the mask, and ``score`` tells how sure
    the network is; it is left out where that is not known (NaN). ``label`` is the object's id in the label
    image; with a single image, the annotation's id is the same, with several they are counted through, for
    COCO wants them unique. Image ids start at 1.

    Parameters
    ----------
    images : (file name, its objects).
    """
    chosen = list(images)
    content: dict[str, Any] = {
        "info": {"description": "nuclei found by napari-deepretina"},
        "images": [],
        "annotations": [],
        "categories": [{"id": i, "name": n} for i, n in enumerate(classes, start=1)],
    }
    for image_id, (name, instances) in enumerate(chosen, start=1):
        height, width = instances.shape
        content["images"].append({"id": image_id, "file_name": name, "height": height, "width": width})
        boxes = instances.tight_boxes().tolist()
        for index, (window, mask) in enumerate(instances):
            x0, y0, x1, y1 = boxes[index]
            counts = coco_counts(mask, (window[0].start, window[1].start), (height, width))
            shape: Any = {"size": [height, width], "counts": counts}
            if polygons:
                corner = np.array([window[1].start, window[0].start])
                shape = [(ring + corner).ravel().tolist() for ring in outlines(mask)]
            label, score = int(instances.ids[index]), float(instances.scores[index])
            content["annotations"].append(
                {
                    "id": label if len(chosen) == 1 else len(content["annotations"]) + 1,
                    "label": label,
                    "image_id": image_id,
                    "category_id": int(instances.classes[index]),
                    "segmentation": shape,
                    "area": int(mask.sum()),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "iscrowd": 0,
                }
                | ({} if np.isnan(score) else {"score": round(score, 6)})
            )
    return content
