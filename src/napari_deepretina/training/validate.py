"""Judge weights on annotated images, the same way everywhere."""

from __future__ import annotations

from pathlib import Path

from napari_deepretina.data.sample import Dataset
from napari_deepretina.evaluation.matching import match
from napari_deepretina.evaluation.scores import Report, score_image
from napari_deepretina.inference.predict import predict
from napari_deepretina.inference.steps import drain
from napari_deepretina.instances import RawInstances
from napari_deepretina.instances.labels import LabelImage
from napari_deepretina.model.architecture import Limits
from napari_deepretina.model.network import Network
from napari_deepretina.model.weights import LoadedModel, WeightsInfo
from napari_deepretina.postprocess import PostprocessSettings, postprocess

SCORE_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9)


def validate(
    network: Network, info: WeightsInfo, dataset: Dataset
) -> tuple[Report, PostprocessSettings, LabelImage]:
    """Detect once, then take the score threshold that serves best.

    Returns
    -------
    The report at the best threshold, the settings that gave it, and the labels of the first image.
    """
    device = next(network.parameters()).device
    model = LoadedModel(network, info, Path(), "", device)
    # Fresh weights find nuclei everywhere: floors just under what is tried keep that affordable.
    limits = Limits(score=min(SCORE_THRESHOLDS), nms=0.5, detections=1500)
    raws = [detect(model, dataset, i, limits) for i in range(len(dataset))]
    tried = [PostprocessSettings(score=s) for s in SCORE_THRESHOLDS]
    reports = [score_raws(raws, dataset, settings) for settings in tried]
    report, settings = max(zip(reports, tried, strict=True), key=lambda pair: pair[0].dsb_score)
    return report, settings, postprocess(raws[0], settings).to_labels()


def detect(model: LoadedModel, dataset: Dataset, index: int, limits: Limits | None = None) -> RawInstances:
    """Raw instances of one sample."""
    return drain(predict(model, dataset[index].image, limits=limits)).raw


def score_raws(raws: list[RawInstances], dataset: Dataset, settings: PostprocessSettings) -> Report:
    """Post-process and score raw instances against their samples."""
    scores = []
    for index, raw in enumerate(raws):
        sample = dataset[index]
        scores.append(score_image(match(sample.labels, postprocess(raw, settings).to_labels()), sample.name))
    return Report(tuple(scores))
