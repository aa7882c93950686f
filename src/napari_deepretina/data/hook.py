"""One's own augmentation, from whatever library, applied to crops and their labels."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_deepretina.errors import UserError

Hook = Callable[..., Any]
"""``(image, labels) -> (image, labels)``; or an albumentations transform, called with ``image=`` and
``mask=``; or an imgaug augmenter, called with ``image=`` and ``segmentation_maps=``."""


def apply_hook(
    hook: Hook, view: Tensor, labels: NDArray[np.int32], rng: np.random.Generator
) -> tuple[Tensor, NDArray[np.int32]]:
    """A crop and its labels as a hook changes them.

    The hook sees (S, S, 3) uint8 and (S, S) int32, or (S, S, K) int32 where objects overlap, and must answer
    the same shapes. Python's and numpy's global generators are seeded from `rng` meanwhile, so that a hook
    that draws from them gives the same crops every time.

    Parameters
    ----------
    view : (3, S, S) float32, shown to the hook as 0…255 of 0…1.
    labels : (S, S) or (K, S, S) int32.

    Raises
    ------
    UserError
        If the hook fails or answers anything else.
    """
    image = (view.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    mask = labels if labels.ndim == 2 else np.ascontiguousarray(labels.transpose(1, 2, 0))
    try:
        with _seeded(int(rng.integers(2**32))):
            new_image, new_mask = _called(hook, image, mask)
    except Exception as error:
        # Whatever a person's own code raises
        raise UserError(f"the augmentation {_name(hook)} failed: {type(error).__name__}: {error}") from error
    new_image, new_mask = np.asarray(new_image), np.asarray(new_mask)
    if new_image.shape != image.shape or new_mask.shape != mask.shape or new_mask.dtype.kind not in "iu":
        raise UserError(
            f"the augmentation {_name(hook)} answered an image of shape {new_image.shape} and labels of "
            f"shape {new_mask.shape}, {new_mask.dtype}; it must keep {image.shape} and {mask.shape}, integers"
        )
    scale = 255 if new_image.dtype == np.uint8 else 1
    pixels = torch.from_numpy(np.ascontiguousarray(new_image.transpose(2, 0, 1), np.float32)) / scale
    ids = np.ascontiguousarray(new_mask, np.int32)
    return pixels, ids if labels.ndim == 2 else np.ascontiguousarray(ids.transpose(2, 0, 1))


def _called(hook: Hook, image: NDArray[np.uint8], mask: NDArray[np.int32]) -> tuple[Any, Any]:
    if hasattr(hook, "add_targets"):  # albumentations
        told = hook(image=image, mask=mask)
        return told["image"], told["mask"]
    if hasattr(hook, "augment_images"):  # imgaug: segmentation maps go in batches of (H, W, C)
        planes = mask if mask.ndim == 3 else mask[..., None]
        new_image, new_planes = hook(image=image, segmentation_maps=planes[None])
        return new_image, np.asarray(new_planes[0]).reshape(mask.shape)
    new_image, new_mask = hook(image, mask)
    return new_image, new_mask


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Python's and numpy's global generators in a known state; afterwards as they were."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002


def _name(hook: Hook) -> str:
    return str(getattr(hook, "__name__", type(hook).__name__))
