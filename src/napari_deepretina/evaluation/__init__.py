"""How good a segmentation is: matches, scores, tables."""

from napari_deepretina.evaluation.matching import ImageMatch, match
from napari_deepretina.evaluation.scores import THRESHOLDS, Report, evaluate_set

__all__ = ["THRESHOLDS", "ImageMatch", "Report", "evaluate_set", "match"]
