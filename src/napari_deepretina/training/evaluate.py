"""Weights against annotated images, by COCO's average precision."""

from __future__ import annotations

from typing import Any

from napari_deepretina.data.coco_truth import coco_truth
from napari_deepretina.data.open import open_dataset
from napari_deepretina.data.sample import Dataset, Subset
from napari_deepretina.errors import UserError
from napari_deepretina.evaluation.coco_ap import ap_by_class, coco_ap
from napari_deepretina.export.coco import coco_content
from napari_deepretina.inference.steps import Progress, Steps
from napari_deepretina.model.architecture import Limits
from napari_deepretina.model.weights import LoadedModel
from napari_deepretina.postprocess import PostprocessSettings
from napari_deepretina.training.validate import FLOOR_OF_CLASSES, detect, detected


def evaluate_weights(
    model: LoadedModel, data: str, *, limit: int = 0, max_dets: int = 100
) -> Steps[dict[str, Any]]:
    """Detect in annotated images and score boxes and masks; in steps, one an image.

    Parameters
    ----------
    data : as in `open_dataset`; where it has a split, the validation part counts.
    limit : of the images, the first so many; 0 takes all.
    max_dets : detections of an image that count.

    Returns
    -------
    ``images`` counted, ``coco`` as `coco_ap` gives it, and ``by_class``: AP of boxes and masks of each.

    Raises
    ------
    UserError
        If the weights tell other classes apart than the data.
    """
    dataset, split = open_dataset(data)
    chosen: Dataset = Subset(dataset, split.val) if split is not None and split.val else dataset
    classes = tuple(getattr(dataset, "class_names", ("nucleus",)))
    known = model.info.architecture.classes
    if classes != known and len(classes) + len(known) > 2:
        raise UserError(
            f"the weights tell {_some(known)} apart, the data {_some(classes)}: they cannot be scored "
            "against each other"
        )
    places = list(range(len(chosen)))[: limit or None]
    settings = PostprocessSettings(score=FLOOR_OF_CLASSES, nms=model.info.postprocess.get("nms", 0.5))
    found = []
    for number, place in enumerate(places, start=1):
        sample = chosen[place]
        raw = detect(model, sample.image, Limits(score=FLOOR_OF_CLASSES))
        found.append(detected(raw, settings, sample))
        yield Progress(number / len(places), "")
    truth = coco_truth(chosen, places, classes)
    results = coco_content((("", instances) for instances in found), classes)["annotations"]
    return {
        "images": len(places),
        "max_dets": max_dets,
        "coco": coco_ap(truth, results, max_dets=max_dets),
        "by_class": ap_by_class(truth, results, max_dets=max_dets),
    }


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
