"""An image with its corrections, as teaching takes it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_deepretina.data.channels import check_image, overview
from napari_deepretina.inference.plan import make_plan
from napari_deepretina.inference.reading import choose_reading
from napari_deepretina.inference.segment import select_channel
from napari_deepretina.inference.settings import SegmentSettings
from napari_deepretina.inference.steps import Steps, drain

if TYPE_CHECKING:
    from napari_deepretina.data.reading import Reading
    from napari_deepretina.inference.segment import Segmentation
    from napari_deepretina.model.weights import LoadedModel
    from napari_deepretina.teaching.corrections import Corrections


@dataclass(frozen=True)
class Material:
    """An image with its corrections.

    Attributes
    ----------
    key : the same for the same image: what was learnt from it before is replaced.
    image : (H, W) or (H, W, C), as its reading takes it; large ones need not be arrays of numpy.
    corrections : of it.
    scale : zoom from image to network pixels with which its nuclei were found.
    reading : how its values are read.
    """

    key: str
    image: Any
    corrections: Corrections
    scale: float
    reading: Reading


def key_of(image: Any) -> str:
    """The same for the same pixels, whatever the image is called."""
    seen = np.ascontiguousarray(overview(image))
    told = f"{image.shape} {image.dtype}".encode()
    return hashlib.blake2b(seen.tobytes() + told, digest_size=12).hexdigest()


def material_steps(
    image: Any,
    corrections: Corrections,
    model: LoadedModel,
    settings: SegmentSettings,
    scale: float,
) -> Steps[Material]:
    """An image as it was looked at when its nuclei were found.

    Parameters
    ----------
    image : (H, W) or (H, W, C).
    settings : that its nuclei were found with; the channel is a number.
    scale : zoom that they were found with.
    """
    chosen = select_channel(image, settings.channel)
    info = model.info
    plan = make_plan(
        check_image(chosen), info.architecture, trained_diameter=info.diameter, diameter=settings.diameter
    )
    reading = yield from choose_reading(model, chosen, plan, settings)
    return Material(key_of(image), chosen, corrections, scale, reading)


def material_of(image: Any, corrections: Corrections, model: LoadedModel, found: Segmentation) -> Material:
    """The same in one call, of what `segment` answered."""
    scale = found.prediction.plan.scale
    return drain(material_steps(image, corrections, model, found.settings, scale))
