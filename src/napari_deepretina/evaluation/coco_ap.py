"""COCO's average precision, computed by pycocotools."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from napari_deepretina.errors import UserError

KINDS = {"boxes": "bbox", "masks": "segm"}
FIELDS = {
    "AP": (None, "all"), "AP50": (0.5, "all"), "AP75": (0.75, "all"), "APs": (None, "small"),
    "APm": (None, "medium"), "APl": (None, "large"),
}  # fmt: skip
"""IoU (None: the mean over 0.50 … 0.95) and object size of each figure."""


def coco_ap(
    truth: Mapping[str, Any], predicted: Mapping[str, Any] | Sequence[Any], *, max_dets: int = 100
) -> dict[str, dict[str, float]]:
    """Average precision of boxes and masks.

    Parameters
    ----------
    truth : content of a COCO JSON file.
    predicted : the same with scores, whose images and categories are matched by name (file names without
        folder and suffix); or a list of results with the ids of the truth.
    max_dets : detections of an image that count, surest first; COCO's own number is 100.

    Returns
    -------
    ``{"boxes": {"AP": …, "AP50": …, "AP75": …, "APs": …, "APm": …, "APl": …}, "masks": {…}}``; -1 where
    the truth holds no object of that size.

    Raises
    ------
    UserError
        If either is not COCO, or they share no image.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    try:
        results, image_ids = _results(truth, predicted)
        with contextlib.redirect_stdout(io.StringIO()):
            known = COCO()
            known.dataset = copy.deepcopy(dict(truth))
            known.createIndex()
            if not results:
                return {kind: dict.fromkeys(FIELDS, 0.0) for kind in KINDS}
            found = known.loadRes(results)
            figures = {}
            for kind, iou_type in KINDS.items():
                evaluation = COCOeval(known, found, iou_type)
                evaluation.params.imgIds = image_ids
                evaluation.params.maxDets = [1, 10, max_dets]
                evaluation.evaluate()
                evaluation.accumulate()
                figures[kind] = {name: _mean(evaluation, *what) for name, what in FIELDS.items()}
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise UserError(f"COCO's average precision cannot be computed: {error!r}") from None
    return figures


def coco_table(figures: Mapping[str, Mapping[str, float]]) -> str:
    """A line for boxes and one for masks."""
    lines = [" " * 8 + "".join(f"{name:>8}" for name in FIELDS)]
    lines += [f"{kind:8}" + "".join(f"{v:8.3f}" for v in row.values()) for kind, row in figures.items()]
    return "\n".join(lines)


def _results(
    truth: Mapping[str, Any], predicted: Mapping[str, Any] | Sequence[Any]
) -> tuple[list[dict[str, Any]], list[Any]]:
    """Predictions with the ids of the truth, and the images that count."""
    if not isinstance(predicted, Mapping):
        return [dict(p) for p in predicted], [i["id"] for i in truth["images"]]
    by_name = {_stem(i["file_name"]): i["id"] for i in truth["images"]}
    images = {i["id"]: by_name.get(_stem(i["file_name"])) for i in predicted["images"]}
    common = [i for i in images.values() if i is not None]
    if not common:
        raise UserError("no image name is in both sets")
    categories = {c["name"]: c["id"] for c in truth.get("categories", [])}
    theirs = {c["id"]: c["name"] for c in predicted.get("categories", [])}
    results = []
    for annotation in predicted["annotations"]:
        image = images.get(annotation["image_id"])
        if image is None:
            continue
        number = annotation["category_id"]
        category = categories.get(theirs.get(number, ""), number)
        told = {k: v for k, v in annotation.items() if k in ("segmentation", "bbox")}
        score = annotation.get("score", 1.0)
        results.append({**told, "image_id": image, "category_id": category, "score": score})
    return results, common


def _stem(name: str) -> str:
    return PurePosixPath(name).stem


def _mean(evaluation: Any, iou: float | None, size: str) -> float:
    """Mean precision over thresholds, recalls and categories that exist; -1 if there are none."""
    params = evaluation.params
    precision = evaluation.eval["precision"][..., params.areaRngLbl.index(size), -1]
    if iou is not None:
        precision = precision[np.isclose(params.iouThrs, iou)]
    precision = precision[precision > -1]
    return float(precision.mean()) if precision.size else -1.0
