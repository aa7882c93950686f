"""Stained tissue in other colours: stains stronger or weaker, hues turned, brown immunohistochemistry."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from napari_deepretina.data.deconvolution import densities
from napari_deepretina.data.reading import CHROMA

BRIGHT_GROUND = 0.4
"""Stained tissue lies on a ground at least so bright, in units of the image's range."""
CYTOPLASMIC = 0.4
"""Share of brown slides whose marker lies in the cytoplasm or the membrane, and leaves the nuclei blue."""


def coloured(view: Tensor) -> bool:
    """Whether the channels of a (3, H, W) image differ by more than what lossy compression leaves."""
    return float((view.amax(dim=0) - view.amin(dim=0)).mean()) > CHROMA


def is_stained(view: Tensor) -> bool:
    """Whether a (3, H, W) image looks like stained tissue: colours on a bright ground."""
    return coloured(view) and float(view.median()) > BRIGHT_GROUND


def restained(view: Tensor, amount: float, rng: np.random.Generator) -> Tensor:
    """Other strengths of the stains (Ruifrok and Johnston 2001, as scikit-image separates them).

    Parameters
    ----------
    view : (3, H, W) float32, 0…1.
    amount : each stain becomes stronger or weaker by up to this share.
    """
    stains = _stains_of(view)
    stains *= 1 + rng.uniform(-amount, amount, 3)
    return _rgb_of(stains)


def turned_hues(view: Tensor, angle: float) -> Tensor:
    """Colours rotated about the grey axis by an angle in radians: their sum, and thus every grey, stays."""
    k = torch.full((3, 1), 3**-0.5)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) * 3**-0.5
    rotation = np.cos(angle) * torch.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * k @ k.T
    turned: Tensor = rotation.float() @ view.reshape(3, -1)
    return turned.reshape(view.shape)


def painted_brown(view: Tensor, labels: NDArray[np.int32], rng: np.random.Generator) -> Tensor:
    """Haematoxylin and eosin made to look like immunohistochemistry: DAB brown on blue.

    Haematoxylin stays and eosin goes. Of a nuclear marker, a random share of the labelled nuclei turns brown
    within their blurred masks, each by a strength of its own, over a faint veil; of a marker of the cytoplasm
    (`CYTOPLASMIC`) the place of eosin turns brown.

    Parameters
    ----------
    view : (3, H, W) float32, 0…1.
    labels : (H, W) int32, 0 is background.
    """
    stains = _stains_of(view)
    ids = np.unique(labels)
    around = rng.random() < CYTOPLASMIC
    share = 0.0 if around else rng.uniform(0, 1)
    positive = (rng.random(len(ids)) < share) & (ids > 0)
    strength = np.where(positive, rng.uniform(0.35, 1.0, len(ids)), 0.0)
    painted = strength[np.searchsorted(ids, labels)]
    brown = ndimage.gaussian_filter(painted, rng.uniform(0.5, 2.0), truncate=3)
    haematoxylin, eosin = stains[..., 0] * rng.uniform(0.6, 1.1), stains[..., 1]
    depth = rng.uniform(0.06, 0.16)
    veil = rng.uniform(*((0.5, 2.0) if around else (0.0, 0.4))) * eosin + rng.uniform(0, 0.02)
    result = np.empty_like(stains)
    result[..., 0] = haematoxylin * (1 - 0.7 * brown)
    result[..., 1] = eosin * rng.uniform(0, 0.15)
    result[..., 2] = brown * (depth + haematoxylin) + veil
    return _rgb_of(result)


def _stains_of(view: Tensor) -> NDArray[np.float32]:
    return densities(view.numpy().transpose(1, 2, 0), 1.0)


def _rgb_of(stains: NDArray[np.float32]) -> Tensor:
    from skimage.color import hed2rgb

    return torch.from_numpy(np.asarray(hed2rgb(stains), np.float32).transpose(2, 0, 1))
