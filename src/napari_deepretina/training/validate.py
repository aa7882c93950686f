"""Judge weights on annotated images, the same way everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.data.coco_truth import coco_truth
from napari_deepretina.data.sample import Dataset, Sample
from napari_deepretina.errors import UserError
from napari_deepretina.evaluation.coco_ap import coco_ap
from napari_deepretina.evaluation.matching import match
from napari_deepretina.evaluation.scores import ImageScore, Report, score_image
from napari_deepretina.export.coco import coco_content
from napari_deepretina.inference.predict import predict
from napari_deepretina.inference.steps import drain
from napari_deepretina.instances import Instances, RawInstances
from napari_deepretina.instances.labels import LabelImage
from napari_deepretina.model.architecture import Limits
from napari_deepretina.model.header import WeightsInfo
from napari_deepretina.model.network import Network
from napari_deepretina.model.weights import LoadedModel
from napari_deepretina.postprocess import PostprocessSettings
from napari_deepretina.postprocess.pipeline import Postprocessor

SCORE_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9)
FLOOR_OF_CLASSES = 0.05
"""Detections of lower scores do not count for the average precision of several classes."""


@dataclass(frozen=True)
class Verdict:
    """What validation images say of weights.

    Attributes
    ----------
    report : scores that do not tell classes apart, at the best score threshold.
    mask_ap : COCO's average precision of masks, the mean over classes; None where there is one class.
    settings : those that gave the report.
    labels : of the first image.
    """

    report: Report
    mask_ap: float | None
    settings: PostprocessSettings
    labels: LabelImage

    @property
    def score(self) -> float:
        """What the best weights are chosen by: with several classes, `mask_ap`."""
        return self.report.dsb_score if self.mask_ap is None else self.mask_ap

    @property
    def kept(self) -> dict[str, float]:
        """What the header of a weights file says of it."""
        told = {
            "dsb_score": self.report.dsb_score,
            "f1": self.report.f1,
            "ap_50": self.report.ap["0.50"],
            "ap_75": self.report.ap["0.75"],
        }
        return told if self.mask_ap is None else {**told, "mask_ap": self.mask_ap}


def validate(
    network: Network, info: WeightsInfo, dataset: Dataset, places: Sequence[int] | None = None
) -> Verdict:
    """Detect once, then take the score threshold that serves best.

    Parameters
    ----------
    places : of the images that are looked at; by default all.
    """
    device = next(network.parameters()).device
    model = LoadedModel(network, info, Path(), "", device)
    places = range(len(dataset)) if places is None else places
    classes = network.architecture.classes
    # Fresh weights find nuclei everywhere: floors just under what is tried keep that affordable.
    floor = FLOOR_OF_CLASSES if len(classes) > 1 else min(SCORE_THRESHOLDS)
    limits = Limits(score=floor, nms=0.5, detections=1500)
    tried = [PostprocessSettings(score=s) for s in SCORE_THRESHOLDS]
    scores: list[list[ImageScore]] = [[] for _ in tried]
    found: list[Instances] = []
    first: Postprocessor | None = None
    for index in places:
        sample = dataset[index]
        raw = detect(model, sample.image, limits)
        process = Postprocessor(raw)
        first = first or process
        for kept, settings in zip(scores, tried, strict=True):
            kept.append(score_image(match(sample.labels, process(settings).to_labels()), sample.name))
        if len(classes) > 1:
            found.append(detected(raw, PostprocessSettings(score=floor), sample))
    reports = [Report(tuple(kept)) for kept in scores]
    report, best = max(zip(reports, tried, strict=True), key=lambda pair: pair[0].dsb_score)
    mask_ap = None
    if len(classes) > 1:
        mask_ap = max(0.0, class_ap(found, dataset, places, classes)["masks"]["AP"])
    if first is None:
        raise UserError("there are no images to validate on")
    return Verdict(report, mask_ap, best, first(best).to_labels())


def detect(model: LoadedModel, image: NDArray[Any], limits: Limits | None = None) -> RawInstances:
    """Raw instances of an image, looked at once."""
    return drain(predict(model, image, limits=limits)).raw


def detected(raw: RawInstances, settings: PostprocessSettings, sample: Sample) -> Instances:
    """What counts for average precision: overlaps kept, only classes that the sample's set tells apart."""
    found = Postprocessor(raw).overlapping(settings)
    return found if sample.annotated is None else found[np.isin(found.classes, list(sample.annotated))]


def class_ap(
    found: Sequence[Instances],
    dataset: Dataset,
    places: Sequence[int],
    classes: Sequence[str],
    **options: int,
) -> dict[str, dict[str, float]]:
    """COCO's average precision, see `coco_ap`, of what was detected in some images of a set."""
    results = coco_content((("", instances) for instances in found), classes)["annotations"]
    return coco_ap(coco_truth(dataset, places, classes), results, **options)
