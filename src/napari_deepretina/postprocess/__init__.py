"""From raw instances to final ones: numpy, scipy and scikit-image only, no network."""

from napari_deepretina.postprocess.pipeline import postprocess
from napari_deepretina.postprocess.settings import PostprocessSettings

__all__ = ["PostprocessSettings", "postprocess"]
