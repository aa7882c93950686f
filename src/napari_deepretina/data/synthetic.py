"""Generated fields of nuclei with exact labels, the same for the same seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_deepretina.data.sample import Sample
from napari_deepretina.instances.labels import LabelImage, relabel_sequential

Kind = Literal["fluorescence", "tissue"]


def synthetic_nuclei(
    shape: tuple[int, int] = (256, 256),
    count: int = 30,
    *,
    diameter: float = 24.0,
    kind: Kind = "fluorescence",
    seed: int = 0,
) -> tuple[NDArray[np.uint8], LabelImage]:
    """Draw a field of nuclei.

    Nuclei are wobbly ellipses that may touch but do not overlap; those that find no room after
    a number of tries are left out, so a crowded field holds fewer than `count`.

    Parameters
    ----------
    shape : (height, width).
    count : nuclei wanted.
    diameter : mean diameter in pixels; single ones differ by up to 30 %.
    kind : bright nuclei on dark noise, or purple ones on pink.

    Returns
    -------
    image : uint8, (H, W) for fluorescence, (H, W, 3) for tissue.
    labels : (H, W) int32, exact.
    """
    rng = np.random.default_rng([seed, 7])
    labels = _draw_labels(shape, count, diameter, rng)
    strength = np.concatenate([[0.0], rng.uniform(0.45, 1.0, int(labels.max()))])[labels]
    texture = ndimage.gaussian_filter(rng.standard_normal(shape), diameter / 12)
    texture *= 0.12 / max(float(texture.std()), 1e-9)
    nuclei = ndimage.gaussian_filter(strength * (1 + texture) * (labels > 0), diameter / 24)
    if kind == "fluorescence":
        glow = 0.06 + 0.05 * _gradient(shape, rng) + 0.15 * ndimage.gaussian_filter(nuclei, diameter / 2)
        photons = rng.poisson(np.clip(glow + 0.8 * nuclei, 0, None) * 220) / 220
        return _to_uint8(photons), labels
    stroma = ndimage.gaussian_filter(rng.standard_normal(shape), diameter / 4)
    stroma *= 0.04 / max(float(stroma.std()), 1e-9)
    pink, purple = np.array([0.92, 0.74, 0.86]), np.array([0.36, 0.22, 0.55])
    mix = np.clip(nuclei, 0, 1)[..., None]
    picture = pink * (1 - mix) + purple * mix + stroma[..., None]
    return _to_uint8(picture + rng.normal(0, 0.015, (*shape, 3))), labels


class SyntheticDataset:
    """`synthetic_nuclei` fields as a data set; kinds take turns if several are given."""

    def __init__(
        self,
        length: int,
        *,
        shape: tuple[int, int] = (256, 256),
        count: int = 30,
        diameter: float = 24.0,
        kinds: Sequence[Kind] = ("fluorescence",),
        seed: int = 0,
    ) -> None:
        self.names: Sequence[str] = [f"synthetic-{seed}-{i:04d}" for i in range(length)]
        self._shape, self._count, self._diameter = shape, count, diameter
        self._kinds, self._seed = tuple(kinds), seed

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        name = self.names[index]
        image, labels = synthetic_nuclei(
            self._shape,
            self._count,
            diameter=self._diameter,
            kind=self._kinds[index % len(self._kinds)],
            seed=self._seed * 1_000_003 + index,
        )
        return Sample(name, image, labels)


def _draw_labels(shape: tuple[int, int], count: int, diameter: float, rng: np.random.Generator) -> LabelImage:
    labels = np.zeros(shape, np.int32)
    placed = 0
    for _ in range(count * 8):
        if placed == count:
            break
        mask = _outline(diameter * rng.uniform(0.7, 1.3), rng)
        y = int(rng.integers(-mask.shape[0] // 3, shape[0] - mask.shape[0] // 2))
        x = int(rng.integers(-mask.shape[1] // 3, shape[1] - mask.shape[1] // 2))
        window = labels[max(y, 0) : y + mask.shape[0], max(x, 0) : x + mask.shape[1]]
        mask = mask[max(-y, 0) :, max(-x, 0) :][: window.shape[0], : window.shape[1]]
        if not mask.any() or (window[mask] > 0).mean() > 0.05:
            continue
        placed += 1
        window[mask & (window == 0)] = placed
    return _largest_pieces(labels)


def _outline(diameter: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """One wobbly ellipse in its own frame."""
    side = int(np.ceil(diameter * 1.7))
    y, x = np.mgrid[:side, :side] + 0.5 - side / 2
    turn = rng.uniform(0, np.pi)
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    longer = np.sqrt(rng.uniform(1.0, 1.6))
    angle = np.arctan2(across, along)
    wobble = 1 + sum(
        rng.uniform(-0.06, 0.06) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4)
    )
    return np.asarray(np.hypot(along / longer, across * longer) < diameter / 2 * wobble)


def _largest_pieces(labels: LabelImage) -> LabelImage:
    """Keep the largest piece of each object, so that every label is one connected region."""
    cleaned = np.zeros_like(labels)
    for label, window in enumerate(ndimage.find_objects(labels), start=1):
        if window is None:
            continue
        pieces, number = ndimage.label(labels[window] == label)
        if number:
            largest = 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
            cleaned[window][pieces == largest] = label
    return relabel_sequential(cleaned)


def _gradient(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    """A plane from 0 to 1 in a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0 : 1 : shape[0] * 1j, 0 : 1 : shape[1] * 1j]
    plane = np.cos(angle) * x + np.sin(angle) * y
    return np.asarray((plane - plane.min()) / max(float(np.ptp(plane)), 1e-9))


def _to_uint8(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return (np.clip(values, 0, 1) * 255).round().astype(np.uint8)
