"""Labels layers that we made: telling them apart, and telling whether a person edited them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
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
    owner : the layer's own id: a copy of a layer that napari makes shares its metadata, but not its edits.
    """

    raw: RawInstances
    labels: LabelImage
    sources: NDArray[np.int64]
    settings: PostprocessSettings
    session: TuneSession | None = None
    owner: str = ""


def digest(labels: Any) -> str:
    """Changes whenever a pixel does."""
    array = np.ascontiguousarray(labels)
    hashed = hashlib.blake2b(array.data.cast("B"), digest_size=16)
    hashed.update(str(array.shape).encode())
    return hashed.hexdigest()


def sign(layer: Any, image: Any, provenance: dict[str, Any]) -> None:
    """Mark a labels layer as one that we made from an image layer."""
    told = {"image": image.name, "image_id": str(image.unique_id), "owner": str(layer.unique_id)}
    layer.metadata = {**layer.metadata, KEY: {**provenance, **told, "digest": digest(layer.data)}}


def remember(layer: Any, remembered: Remembered) -> None:
    """Keep what tuning needs with a labels layer."""
    remembered.owner = str(layer.unique_id)
    layer.metadata = {**layer.metadata, RAW: remembered}


def remembered_of(layer: Any) -> Remembered | None:
    """What was kept with a labels layer; a copy of a layer gets its own, and sees all edits as a person's."""
    found = layer.metadata.get(RAW)
    if found is not None and found.owner != str(layer.unique_id):
        remember(layer, replace(found, session=None))
        found = layer.metadata[RAW]
    return found


def is_ours(layer: Any, image: Any) -> bool:
    """Whether we made this very layer from this very image layer, whatever they are called by now."""
    mark = layer.metadata.get(KEY)
    if not isinstance(mark, dict):
        return False
    return (mark.get("image_id"), mark.get("owner")) == (str(image.unique_id), str(layer.unique_id))


def is_edited(layer: Any) -> bool:
    """Whether its pixels changed since we made it."""
    return bool(layer.metadata[KEY]["digest"] != digest(layer.data))
