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
    found = _evaluations(truth, predicted, max_dets)
    if found is None:
        return {kind: dict.fromkeys(FIELDS, 0.0) for kind in KINDS}
    return {kind: {name: _mean(e, *what) for name, what in FIELDS.items()} for kind, e in found.items()}


def ap_by_class(
    truth: Mapping[str, Any], predicted: Mapping[str, Any] | Sequence[Any], *, max_dets: int = 100
) -> dict[str, dict[str, float]]:
    """AP of boxes and masks of each class, parameters and errors as in `coco_ap`.

    Returns
    -------
    ``{class name: {"boxes": AP, "masks": AP}}``; -1 where the truth holds no object of that class.
    """
    names = {c["id"]: str(c["name"]) for c in truth["categories"]}
    found = _evaluations(truth, predicted, max_dets)
    if found is None:
        return {name: dict.fromkeys(KINDS, 0.0) for name in names.values()}
    return {
        name: {kind: _mean(e, None, "all", place=e.params.catIds.index(number)) for kind, e in found.items()}
        for number, name in names.items()
    }


def _evaluations(
    truth: Mapping[str, Any], predicted: Mapping[str, Any] | Sequence[Any], max_dets: int
) -> dict[str, Any] | None:
    """Evaluations of boxes and masks by pycocotools, accumulated; None where nothing was predicted."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    try:
        results, image_ids = _results(truth, predicted)
        if not results:
            return None
        with contextlib.redirect_stdout(io.StringIO()):
            known = COCO()
            known.dataset = copy.deepcopy(dict(truth))
            known.createIndex()
            found = known.loadRes(results)
            evaluations = {}
            for kind, iou_type in KINDS.items():
                evaluation = COCOeval(known, found, iou_type)
                evaluation.params.imgIds = image_ids
                evaluation.params.maxDets = [1, 10, max_dets]
                evaluation.evaluate()
                evaluation.accumulate()
                evaluations[kind] = evaluation
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise UserError(f"COCO's average precision cannot be computed: {error!r}") from None
    return evaluations


def coco_table(figures: Mapping[str, Mapping[str, float]]) -> str:
    """A line for boxes and one for masks."""
    lines = [" " * 8 + "".join(f"{name:>8}" for name in FIELDS)]
    lines += [f"{kind:8}" + "".join(f"{v:8.3f}" for v in row.values()) for kind, row in figures.items()]
    return "\n".join(lines)


def class_table(figures: Mapping[str, Mapping[str, float]]) -> str:
    """A line for each class: AP of boxes and masks."""
    wide = max(8, *(len(name) for name in figures)) + 1
    lines = [" " * wide + "".join(f"{kind:>8}" for kind in KINDS)]
    lines += [f"{name:{wide}}" + "".join(f"{row[k]:8.3f}" for k in KINDS) for name, row in figures.items()]
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


def _mean(evaluation: Any, iou: float | None, size: str, place: int | None = None) -> float:
    """Mean precision over thresholds, recalls and categories that exist, or of one; -1 if there are none."""
    params = evaluation.params
    precision = evaluation.eval["precision"][..., params.areaRngLbl.index(size), -1]
    if place is not None:
        precision = precision[:, :, place]
    if iou is not None:
        precision = precision[np.isclose(params.iouThrs, iou)]
    precision = precision[precision > -1]
    return float(precision.mean()) if precision.size else -1.0
