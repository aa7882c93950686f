"""Reading COCO JSON: objects by image, from run lengths or polygons."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.data.files import stem
from napari_deepretina.data.regions import FARTHEST
from napari_deepretina.errors import UserError
from napari_deepretina.instances import Instances, rle
from napari_deepretina.intake import checked_size, parse_json, read_bytes

Box = tuple[int, int, int, int]
MOST_CATEGORIES = 10_000
"""A network has outputs for each."""
_Object = tuple[Box, NDArray[np.bool_], float, int]


class CocoFile:
    """A COCO JSON file, parsed; its objects are decoded when they are asked for.

    Attributes
    ----------
    path : of the file; a list of results needs the file with its images, `like`.
    shapes : (height, width) of each image, by name: its file name, with its id where several share that.
    file_names : by name.
    categories : id → name, in order of the ids.
    """

    def __init__(self, path: Path, like: Path | None = None) -> None:
        self.path = path
        try:
            content = parse_json(read_bytes(path))
            if isinstance(content, list) and like is not None:  # results: images are those of the truth
                content = {**parse_json(read_bytes(like)), "annotations": content}
            images, self.file_names = _named_apart({i["id"]: _image(i) for i in content["images"]})
            annotations = list(content["annotations"])
            told = content.get("categories") or [{"id": 1, "name": "nucleus"}]
            self.categories = {int(c["id"]): str(c["name"]) for c in sorted(told, key=lambda c: c["id"])}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise UserError(f"{path} cannot be read as COCO JSON: {str(error)[:120] or error!r}") from None
        if len(self.categories) > MOST_CATEGORIES:
            raise UserError(f"{path} has {len(self.categories)} categories, more than {MOST_CATEGORIES}")
        for name, shape in images.values():
            checked_size(shape, f"{path}: image {name!r}")
        self.shapes = dict(images.values())
        self._annotations: dict[str, list[Any]] = {name: [] for name in self.shapes}
        for annotation in annotations:
            image_id = annotation.get("image_id") if isinstance(annotation, dict) else None
            try:
                known = image_id in images
            except TypeError:
                known = False
            if not known:
                raise self._misfit(annotation, f"it belongs to unknown image {image_id!r}")
            self._annotations[images[image_id][0]].append(annotation)

    def objects(self, name: str, *, crowds: bool | None = None) -> Instances:
        """Objects of one image; with `crowds`, only annotations that stand for many, or only the others."""
        found: list[_Object] = []
        for annotation in self._annotations[name]:
            if crowds is not None and bool(annotation.get("iscrowd")) != crowds:
                continue
            try:
                placed = _placed(annotation["segmentation"], self.shapes[name])
                score, class_id = float(annotation.get("score", 1.0)), int(annotation.get("category_id", 1))
                if not 0 <= class_id < 2**31:
                    raise ValueError(f"its category {class_id} is no possible number")
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
                reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
                raise self._misfit(annotation, reason) from None
            if placed is not None:
                found.append((*placed, score, class_id))
        return _joined(found, self.shapes[name])

    def annotations(self, name: str) -> list[dict[str, Any]]:
        """What the file says of the objects of one image, as it says it."""
        return self._annotations[name]

    def _misfit(self, annotation: Any, reason: str) -> UserError:
        number = annotation.get("id") if isinstance(annotation, dict) else annotation
        return UserError(f"{self.path}: annotation {number}: {reason}")


def read_coco(path: Path, like: Path | None = None) -> dict[str, Instances]:
    """Objects by image file name; RLE (plain or compressed) and polygon segmentations.

    Objects may overlap, as COCO allows; those without a pixel are left out.

    Raises
    ------
    UserError
        If the file is not COCO JSON or an annotation does not fit its image.
    """
    file = CocoFile(path, like)
    return {name: file.objects(name) for name in file.shapes}


def _named_apart(
    images: dict[Any, tuple[str, tuple[int, int]]],
) -> tuple[dict[Any, tuple[str, tuple[int, int]]], dict[str, str]]:
    """Images by id with names that differ, also without folders and suffix, and the file name of each."""
    times = Counter(stem(name) for name, _ in images.values())
    named, files = {}, {}
    for number, (name, shape) in images.items():
        path = PurePosixPath(name)
        own = name if times[stem(name)] == 1 else f"{path.with_suffix('')}_{number}{path.suffix}"
        named[number] = own, shape
        files[own] = name
    return named, files


def _image(entry: dict[str, Any]) -> tuple[str, tuple[int, int]]:
    if not isinstance(entry["file_name"], str):
        raise TypeError(f"file_name is {entry['file_name']!r}")
    return entry["file_name"], (int(entry["height"]), int(entry["width"]))


def _joined(objects: list[_Object], shape: tuple[int, int]) -> Instances:
    drawn = Instances.drawn([o[0] for o in objects], [o[1] for o in objects], shape)
    scores = np.array([o[2] for o in objects], np.float32)
    return replace(drawn, scores=scores, classes=np.array([o[3] for o in objects], np.int32))


def _placed(segmentation: Any, shape: tuple[int, int]) -> tuple[Box, NDArray[np.bool_]] | None:
    """Box and mask of one annotation; None if it has no pixel."""
    if isinstance(segmentation, dict):
        return _from_counts(segmentation, shape)
    from skimage.draw import polygon2mask

    rings = [_corners(ring) for ring in segmentation]
    if not rings:
        return None
    ends = np.concatenate(rings)
    y0, x0 = np.clip(np.floor(ends.min(axis=0)), 0, shape).astype(int).tolist()
    y1, x1 = np.clip(np.ceil(ends.max(axis=0)) + 1, 0, shape).astype(int).tolist()
    mask = np.zeros((max(0, y1 - y0), max(0, x1 - x0)), bool)  # of the object, not of the image
    for ring in rings:
        mask |= polygon2mask(mask.shape, ring - (y0 + 0.5, x0 + 0.5))
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    top, left, bottom, right = int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1
    return (x0 + left, y0 + top, x0 + right, y0 + bottom), mask[top:bottom, left:right].copy()


def _corners(ring: Any) -> NDArray[np.float64]:
    """(K, 2) corners (y, x) of a polygon that is given as x, y, x, y and so on."""
    corners = np.asarray(ring, float)
    if corners.ndim != 1 or len(corners) < 6 or len(corners) % 2 or not np.isfinite(corners).all():
        raise ValueError(f"a polygon needs at least three x, y pairs, this one is {str(ring)[:60]}")
    if np.abs(corners).max() > FARTHEST:
        raise ValueError(f"a polygon has a corner at {np.abs(corners).max():.3g}, far outside any image")
    return corners.reshape(-1, 2)[:, ::-1]


def _from_counts(counted: dict[str, Any], shape: tuple[int, int]) -> tuple[Box, NDArray[np.bool_]] | None:
    counts = counted["counts"]
    runs = np.asarray(_decompressed(counts) if isinstance(counts, str) else counts)
    whole = runs.ndim == 1 and runs.dtype.kind == "i"
    if not whole or (runs < 0).any() or runs.sum() != shape[0] * shape[1] or tuple(counted["size"]) != shape:
        raise ValueError(f"run lengths do not fit an image of {shape[0]}×{shape[1]}")
    ends = np.cumsum(runs)
    starts, lengths = ends[:-1][::2], runs[1::2]
    filled = lengths > 0
    if not filled.any():
        return None
    owner = np.zeros(np.count_nonzero(filled), np.int64)
    boxes, masks = rle.from_runs(starts[filled], lengths[filled], owner, shape[0])
    return boxes[0], masks[0]


def _decompressed(text: str) -> list[int]:
    """Run lengths from COCO's compressed string.

    Five bits a character (from code 48 on), the lowest first; the sixth says that more follow, the last
    one's fifth is the sign. From the fourth number on, each is the difference to the one two before.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise ValueError(f"{character!r} does not belong in compressed run lengths")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("compressed run lengths end in the middle of a number")
    return counts
