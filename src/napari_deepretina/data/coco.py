"""Reading COCO JSON: objects by image, from run lengths or polygons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from napari_deepretina.errors import UserError
from napari_deepretina.instances import Instances


def read_coco(path: Path) -> dict[str, Instances]:
    """Objects by image file name; RLE and polygon segmentations.

    Raises
    ------
    UserError
        If the file is not COCO JSON or an annotation does not fit its image.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        images = {i["id"]: (i["file_name"], (int(i["height"]), int(i["width"]))) for i in content["images"]}
        annotations = content["annotations"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read as COCO JSON: {error!r}") from None
    masks: dict[int, list[Any]] = {i: [] for i in images}
    details: dict[int, list[tuple[float, int]]] = {i: [] for i in images}
    for annotation in annotations:
        image_id = annotation.get("image_id")
        if image_id not in images:
            raise UserError(f"{path}: annotation {annotation.get('id')} is of unknown image {image_id!r}")
        shape = images[image_id][1]
        try:
            masks[image_id].append(_mask(annotation["segmentation"], shape))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: annotation {annotation.get('id')}: {error}") from None
        details[image_id].append((annotation.get("score", 1.0), annotation.get("category_id", 1)))
    return {name: _cropped(masks[i], details[i], shape) for i, (name, shape) in images.items()}


def _mask(segmentation: Any, shape: tuple[int, int]) -> Any:
    """(H, W) bool from uncompressed RLE or polygons."""
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        if not isinstance(counts, list):
            raise ValueError("compressed RLE is not read here; write counts as a list")
        if tuple(segmentation["size"]) != shape or sum(counts) != shape[0] * shape[1] or min(counts) < 0:
            raise ValueError(f"run lengths do not fit an image of {shape[0]}×{shape[1]}")
        values = np.arange(len(counts)) % 2 == 1
        return np.repeat(values, counts).reshape(shape[1], shape[0]).T
    from skimage.draw import polygon2mask

    mask = np.zeros(shape, bool)
    for ring in segmentation:
        corners = np.asarray(ring, float).reshape(-1, 2)[:, ::-1]
        mask |= polygon2mask(shape, corners - 0.5)
    return mask


def _cropped(masks: list[Any], details: list[tuple[float, int]], shape: tuple[int, int]) -> Instances:
    boxes, crops, kept = [], [], []
    for index, mask in enumerate(masks):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            continue
        box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        boxes.append(box)
        crops.append(mask[box[1] : box[3], box[0] : box[2]])
        kept.append(details[index])
    return Instances(
        np.asarray(boxes, np.int64).reshape(-1, 4),
        tuple(crops),
        np.array([s for s, _ in kept], np.float32),
        np.array([c for _, c in kept], np.int32),
        shape,
    )
