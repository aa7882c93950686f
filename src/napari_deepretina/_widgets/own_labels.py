"""Labels layers that we made: telling them apart, and telling whether a person edited them."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

KEY = "napari-deepretina"
"""In a layer's metadata: how it was made."""
RAW = "napari-deepretina-document"
"""In a layer's metadata: the view of its document."""


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


def is_ours(layer: Any, image: Any) -> bool:
    """Whether we made this very layer from this very image layer, whatever they are called by now."""
    mark = layer.metadata.get(KEY)
    if not isinstance(mark, dict):
        return False
    return (mark.get("image_id"), mark.get("owner")) == (str(image.unique_id), str(layer.unique_id))


def is_edited(layer: Any) -> bool:
    """Whether a person changed its nuclei, or anything its pixels, since we made it."""
    view = layer.metadata.get(RAW)
    if view is not None:
        view.sync()
        return bool(view.document.is_changed())
    return bool(layer.metadata[KEY]["digest"] != digest(layer.data))
