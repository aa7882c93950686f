"""Labels layers that we made: telling them apart, and telling whether a person edited them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.instances import RawInstances
from napari_deepretina.instances.labels import LabelImage
from napari_deepretina.postprocess import PostprocessSettings
from napari_deepretina.postprocess.tuning import TuneSession

KEY = "napari-deepretina"
RAW = "napari-deepretina-raw"


@dataclass
class Remembered:
    """What tuning needs, kept beside the labels.

    Attributes
    ----------
    raw : raw detections.
    labels : the labels as they were made.
    sources : raw detections behind ids 1…N.
    settings : post-processing that made them.
    session : what tuning and review did since; made when Tune first looks at the layer.
    """

    raw: RawInstances
    labels: LabelImage
    sources: NDArray[np.int64]
    settings: PostprocessSettings
    session: TuneSession | None = None


def digest(labels: Any) -> str:
    """Changes whenever a pixel does."""
    array = np.ascontiguousarray(labels)
    hashed = hashlib.blake2b(array.data.cast("B"), digest_size=16)
    hashed.update(str(array.shape).encode())
    return hashed.hexdigest()


def sign(labels: Any, image_name: str, provenance: dict[str, Any]) -> dict[str, Any]:
    """Metadata of a layer that we made."""
    return {KEY: {**provenance, "image": image_name, "digest": digest(labels)}}


def is_ours(layer: Any, image_name: str) -> bool:
    """Whether we made this layer from the image of that name."""
    mark = layer.metadata.get(KEY)
    return isinstance(mark, dict) and mark.get("image") == image_name


def is_edited(layer: Any) -> bool:
    """Whether its pixels changed since we made it."""
    return bool(layer.metadata[KEY]["digest"] != digest(layer.data))
