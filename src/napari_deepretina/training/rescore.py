"""Learn to see detections in the light of their fellows, once a network is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from napari_deepretina.data.reading import best_for_labels, readings
from napari_deepretina.data.sample import Dataset, Sample
from napari_deepretina.errors import UserError
from napari_deepretina.evaluation import match
from napari_deepretina.inference.predict import Prediction, Whole, predict
from napari_deepretina.inference.segment import adapted_scale
from napari_deepretina.inference.settings import SegmentSettings
from napari_deepretina.inference.steps import drain
from napari_deepretina.model.architecture import Limits
from napari_deepretina.model.rescoring import (
    FLOOR,
    SURE,
    Rescoring,
    compared,
    evidence_of,
    fellows_of,
    learn,
)
from napari_deepretina.model.weights import LoadedModel
from napari_deepretina.postprocess import PostprocessSettings, postprocess

FEWEST = 100
"""Detections that it takes at least."""
COUNTED = 5
"""Images of fewer detections count as if they had so many: each image counts alike, not each detection."""


def learn_rescoring(
    model: LoadedModel, dataset: Dataset, told: Callable[[int], None] | None = None
) -> LoadedModel:
    """The same network, whose scores are seen in context from now on.

    Parameters
    ----------
    model : not Matterport's; rescoring that it has already is learnt anew.
    dataset : annotated images, those that the network was trained on or like them.
    told : called with the number of images done.

    Raises
    ------
    UserError
        If too little is found in the images to learn from, or the network is Matterport's.
    """
    if model.info.architecture.is_matterport:
        raise UserError(
            f"{model.info.name} is a network of Matterport's, whose scores stay as they are: "
            "rescoring is for weights that were trained here"
        )
    plain = replace(model, info=model.info.model_copy(update={"rescoring": None}))
    min_area = PostprocessSettings.model_validate(model.info.postprocess).min_area
    settings = PostprocessSettings(score=FLOOR, min_area=min_area)
    inputs, hits, weights = [], [], []
    for index in range(len(dataset)):
        sample = dataset[index]
        reading = best_for_labels(readings(sample.image), sample.image, sample.labels)
        found = _looked_at(plain, sample, Whole(reading)).raw
        evidence = evidence_of(found, reading(sample.image))
        instances = postprocess(found, settings)
        matched = match(sample.labels, instances.to_labels())
        fellows = fellows_of(evidence)
        if fellows is not None and len(instances):
            inputs.append(compared(evidence, fellows)[instances.sources])
            hits.append(np.isin(np.arange(1, len(instances) + 1), matched.hits(0.5)[:, 1]))
            weights.append(np.full(len(instances), 1 / max(COUNTED, len(instances))))
        if told:
            told(index + 1)
    if sum(map(len, hits)) < FEWEST:
        raise UserError(
            f"{sum(map(len, hits))} detections in {len(dataset)} images are too few to learn rescoring from: "
            f"give images with at least {FEWEST}"
        )
    rescoring = learn(np.concatenate(inputs), np.concatenate(hits), np.concatenate(weights))
    return replace(model, info=model.info.model_copy(update={"rescoring": rescoring}))


def _looked_at(model: LoadedModel, sample: Sample, whole: Whole) -> Prediction:
    """As for segmentation: small nuclei enlarged, large ones reduced."""
    limits = Rescoring.limits(Limits())
    first = drain(predict(model, sample.image, limits=limits, whole=whole))
    scale = adapted_scale(model, SegmentSettings(score=SURE), [first.raw], first.plan)
    return (
        first
        if scale is None
        else drain(predict(model, sample.image, limits=limits, scale=scale, whole=whole))
    )
