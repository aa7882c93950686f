"""How the values of an image become what the network looks at: intensities and colours as a person sees them.

Most images are read plainly: the percentiles `LOW` and `HIGH` of all values become 0 and 1. Left out of these
are parts that are no picture (padding, no-data values, the empty rest of a slide), and where a few values
are far above all others, as a speck of dirt is, lower upper ends are offered as well. Colours on a dark
ground are not those of a photograph but channels, of which one may hold the nuclei: each is offered, and
their mix. Of brown slides (immunohistochemistry) the stains of nuclei are offered by themselves, bright on
dark.

`readings` offers, the best guess first; who has a network or labels chooses (`inference.reading`,
`best_for_labels`), all others take the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_deepretina.data.channels import as_channels, check_image, overview
from napari_deepretina.data.deconvolution import STAINS, densities, shows_brown
from napari_deepretina.data.percentiles import percentiles
from napari_deepretina.errors import UserError

LOW, HIGH = 1.0, 99.8
"""Percentiles that become 0 and 1: nuclei may cover little of an image, glare even less."""
LOWER_HIGHS = (99.0, 97.0)
"""Other upper ends, offered where they are far lower: something bright may cover more than glare does."""
FAR = 3.0
"""An upper end is far lower where the range is divided by so much."""
CHROMA = 0.02
"""Mean difference between the channels of what is grey at most, in units of the image's range. Stained tissue
of the annotated sets has 0.1 to 0.8, grey images kept by a lossy format 0.001."""
DARK_GROUND = 0.2
"""Where a quarter of the pixels is darker than this in all colours, the ground is dark."""
USED = 0.12
"""Channels whose range is a smaller share of the widest one's hold nothing but what compression left."""
GAP = 0.1
"""Padding is at least so far from the range of the picture, in units of that range."""
SOLID = 0.8
"""Share of a picture beside padding that hangs together at least; nuclei on a black ground do not."""
SMALLEST, SMALLEST_BRIGHT = 0.0005, 0.02
"""Shares of an image that are padding at least, dark or bright: fewer pixels change nothing."""
LEAST = 0.02
"""Share of an image that is its picture at least."""
_LEVELS = 64
_SEEN = 256
_NAMES = ("red", "green", "blue")


@dataclass(frozen=True)
class Reading:
    """How values are mapped to 0…1.

    Attributes
    ----------
    low, high : values that become 0 and 1: one for all channels, or one for each of `channels`.
    channels : those that are looked at, the brighter one where there are several; None takes the image as it
        is, grey or a photograph.
    stains : those whose density is looked at instead of values, summed; ``low`` and ``high`` are densities.
    white : the value of what holds no stain.
    blank : (least, most), ends included, of values that are no picture if all channels of a pixel have such.
    fill : what they become.
    inverted : whether dark and bright change places.
    clipped : whether values beyond the range count as its ends, as on a screen, and not somewhat further.
    note : what a person should know of it; empty where the image is read plainly.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    channels: tuple[int, ...] | None = None
    stains: tuple[int, ...] = ()
    white: float = 1.0
    blank: tuple[tuple[float, float], ...] = ()
    fill: float = 0.0
    inverted: bool = False
    clipped: bool = False
    note: str = ""

    def __call__(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """Map an image or a part of it to (H, W, 3) float32, clipped to -0.5…1.5; not finite becomes 0."""
        values = told = as_channels(image)
        if self.stains:
            values = densities(values, self.white)[..., self.stains].sum(axis=2, keepdims=True)
        elif self.channels is not None:
            values = told = values[..., self.channels]
        elif values.shape[2] not in (1, 3):
            values = told = values[..., :1]  # all hold the same
        low, high = np.array(self.low), np.array(self.high)
        usable = high > low
        if not usable.any():
            return np.zeros((*values.shape[:2], 3), np.float32)
        wide = values.dtype.itemsize > 4 or (values.dtype.kind in "iu" and values.dtype.itemsize == 4)
        # The offset is taken off before the cast: 2³² and a little more are one number in float32.
        real = np.float64 if wide else np.float32
        width = np.where(usable, high - low, np.inf).astype(real)
        with np.errstate(invalid="ignore", over="ignore"):
            scaled = ((values.astype(real, copy=False) - low.astype(real)) / width).astype(np.float32)
        scaled = np.nan_to_num(scaled, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        if self.channels is not None:
            scaled = np.maximum.reduce([scaled[..., [c]] for c in range(scaled.shape[2])])
        if self.inverted:
            scaled = 1 - scaled
        for span in self.blank:
            scaled[_within(told, span)] = self.fill
        np.clip(scaled, *((0, 1) if self.clipped else (-0.5, 1.5)), out=scaled)
        return scaled if scaled.shape[2] == 3 else np.repeat(scaled, 3, axis=2)

    @property
    def limits(self) -> tuple[float, float]:
        """The widest range over the channels."""
        return min(self.low), max(self.high)


NOTHING = Reading((0.0,), (0.0,))
"""Of an image without a finite value: all of it becomes 0."""


def readings(image: Any) -> list[Reading]:
    """Ways to read an image, the best guess first; mostly there is but one.

    Parameters
    ----------
    image : (H, W) or (H, W, C), C up to `TRIED_CHANNELS`, any real dtype; large ones, which need not be
        arrays of numpy, are looked over on a grid.

    Raises
    ------
    UserError
        See `check_image`.
    """
    check_image(image)
    values = _one_of_equals(as_channels(overview(image)))
    every = -(-max(values.shape[:2]) // _SEEN)
    blank = _blank(np.ascontiguousarray(values[::every, ::every]))
    inside = _inside(values, blank.spans)
    if not len(inside):
        return [NOTHING]
    colours = values.shape[2] == 3
    if values.shape[2] == 1 or (colours and not _on_dark_ground(inside[:: every * every])):
        found = [*_ranges(inside), *(_stains_apart(values, inside) if colours else ())]
    else:
        found = _channels_apart(inside, _NAMES if colours else None)
    return [_with_blank(r, blank) for r in found]


def read_plainly(image: Any) -> Reading:
    """The percentiles of all values and channels together, whatever they are."""
    values = as_channels(overview(image))
    inside = _inside(values, ())
    return _ranges(inside)[0] if len(inside) else NOTHING


def read_stains(image: Any, name: str) -> Reading:
    """Densities of `STAINS` alone, whatever the image shows.

    Raises
    ------
    UserError
        If the image has no colours.
    """
    values = as_channels(overview(image))
    if values.shape[2] != 3:
        raise UserError(
            f"intensity {name!r} tells stains apart by their colours, and this image has "
            f"{values.shape[2]} channels instead of red, green and blue: take auto"
        )
    inside = _inside(values, ())
    white = percentiles(inside, (HIGH,))[0] if len(inside) else 0.0
    return _of_stains(densities(inside, white), white, name) if white > 0 else NOTHING


def best_for_labels(offered: Sequence[Reading], image: NDArray[Any], labels: NDArray[Any]) -> Reading:
    """Of several readings the one in which labelled pixels stand out most; stains are learnt in colour."""
    offered = [reading for reading in offered if not reading.stains]
    inside = labels > 0
    if len(offered) == 1 or inside.all() or not inside.any():
        return offered[0]
    contrasts = []
    for reading in offered:
        grey = reading(image).mean(axis=2).clip(0, 1)
        contrasts.append(abs(float(np.median(grey[inside]) - np.median(grey[~inside]))))
    return offered[int(np.argmax(contrasts))]


# ---- range ----


def _ranges(inside: NDArray[Any]) -> list[Reading]:
    """Plain range of values of any shape, and lower upper ends where they are far lower."""
    low, *highs = percentiles(inside, (LOW, HIGH, *LOWER_HIGHS))
    found = [Reading((low,), (highs[0],))]
    for high, percent in zip(highs[1:], LOWER_HIGHS, strict=True):
        if high > low and (found[-1].high[0] - low) > FAR * (high - low):
            told = f"intensities above {high:.4g} were taken for glare ({100 - percent:g} % of the values)"
            found.append(Reading((low,), (high,), note=told))
    return found


def _with_blank(reading: Reading, blank: _Blank) -> Reading:
    if not blank.spans:
        return reading
    (low,), (high,) = reading.low[:1], reading.high[:1]
    in_range = high > low and not reading.stains
    fill = float(np.clip((blank.median - low) / (high - low), 0, 1)) if in_range else 0.0
    notes = [n for n in (blank.note, reading.note) if n]
    return replace(reading, blank=blank.spans, fill=fill, note=", ".join(notes))


@dataclass(frozen=True)
class _Blank:
    """Values that are no picture: their spans, the median of the rest, and a sentence."""

    spans: tuple[tuple[float, float], ...] = ()
    median: float = 0.0
    note: str = ""


def shown(values: NDArray[Any], spans: Sequence[tuple[float, float]]) -> NDArray[np.bool_]:
    """(H, W), True where an image (H, W, C) is finite and has other values than those of `spans`."""
    shown = np.ones(values.shape[:2], bool)
    if values.dtype.kind == "f":
        shown &= np.isfinite(values).all(axis=2)
    for span in spans:
        shown &= ~_within(values, span)
    return shown


def _within(values: NDArray[Any], span: tuple[float, float]) -> NDArray[np.bool_]:
    """(H, W), True where all channels of an image (H, W, C) lie in a span."""
    channels = [values[..., c] for c in range(values.shape[2])]  # reducing a short last axis is slow
    inside: NDArray[np.bool_] = np.logical_and.reduce([(c >= span[0]) & (c <= span[1]) for c in channels])
    return inside


def _inside(values: NDArray[Any], spans: Sequence[tuple[float, float]]) -> NDArray[Any]:
    """(N, C) values of an image where it shows something."""
    if not spans and values.dtype.kind != "f":
        return values.reshape(-1, values.shape[2])
    inside = shown(values, spans)
    return values.reshape(-1, values.shape[2]) if inside.all() else values[inside]


def _one_of_equals(values: NDArray[Any]) -> NDArray[Any]:
    """The first channel alone, where all channels hold the same."""
    first = values[..., :1]
    return first if values.shape[2] > 1 and bool((values == first).all()) else values


def _blank(values: NDArray[Any]) -> _Blank:
    """What the values of a small overview (H, W, C) are where it shows nothing."""
    finite = shown(values, ())
    picture = finite
    spans: list[tuple[float, float]] = []
    while len(spans) < 3 and (found := _padding(values, picture)) is not None:
        span, rest = found
        spans.append(span)
        picture = rest
    if not spans:
        return _Blank()
    share = 1 - picture.sum() / max(1, finite.sum())
    told = f"{100 * share:.1f} % of the image is empty and was left out of the range of intensities"
    return _Blank(tuple(spans), float(np.median(values[picture])), told)


def _padding(
    values: NDArray[Any], picture: NDArray[np.bool_]
) -> tuple[tuple[float, float], NDArray[np.bool_]] | None:
    """The span of values of padding, and the picture without it; None if there is no padding.

    Padding is the commonest value along the edges, or the lowest or highest of all, if it lies well beyond
    the range of the rest, and if the rest hangs together.
    """
    inside = values[picture]
    if not len(inside):
        return None
    lowest, top = float(inside.min()), float(np.percentile(inside, 99))
    highest = float(inside.max())
    step = (max(top, lowest) - lowest) / _LEVELS
    for centre in dict.fromkeys((lowest, highest, *_commonest_at_the_edges(values, picture, lowest, step))):
        span = _within_type(centre - step, centre + step, values.dtype)
        here = picture & _within(values, span)
        rest = picture & ~here
        share = float(here.mean())
        if share < SMALLEST or rest.sum() < LEAST * picture.size:
            continue
        low, middle, high = percentiles(values[rest], (LOW, 50, HIGH))
        width = float(high - low)
        below, above = (low - centre) / width if width else 0, (centre - high) / width if width else 0
        dark = (middle - low) < 0.5 * width
        bright = above > GAP and dark and share > SMALLEST_BRIGHT
        if below > 1 or (bright and above > 1):  # no-data values lie anywhere
            return span, rest
        if (below > GAP or bright) and _is_padding(here, rest):
            return span, rest
    return None


def _within_type(least: float, most: float, dtype: np.dtype[Any]) -> tuple[float, float]:
    """A span cut to what a type of floating-point numbers can hold."""
    if dtype.kind != "f":
        return least, most
    ends = np.finfo(dtype)
    return max(least, float(ends.min)), min(most, float(ends.max))


def _commonest_at_the_edges(
    values: NDArray[Any], picture: NDArray[np.bool_], lowest: float, step: float
) -> list[float]:
    """Median value of the commonest level along the four edges, if it is common."""
    if step <= 0:
        return []
    edges: list[Any] = [(0, slice(None)), (-1, slice(None)), (slice(None), 0), (slice(None), -1)]
    found = np.concatenate([values[e][picture[e]].astype(np.float64).max(axis=1) for e in edges])
    if not len(found):
        return []
    levels = np.clip((found - lowest) / step, 0, 4 * _LEVELS).astype(np.int64)
    commonest = int(np.bincount(levels).argmax())
    own = found[levels == commonest]
    return [float(np.median(own))] if len(own) > 0.1 * len(found) else []


def _is_padding(here: NDArray[np.bool_], rest: NDArray[np.bool_]) -> bool:
    """Whether one part reaches the edges and the other one hangs together."""
    numbered, count = ndimage.label(here)
    edges = np.concatenate([numbered[0], numbered[-1], numbered[:, 0], numbered[:, -1]])
    at_edge = np.isin(numbered, edges[edges > 0])
    if not count or at_edge.sum() < 0.5 * here.sum():
        return False
    parts, count = ndimage.label(ndimage.binary_closing(rest, iterations=2) | rest)
    sizes = np.bincount(parts[rest])[1:] if count else np.zeros(0)
    return bool(len(sizes)) and float(sizes.max()) >= SOLID * float(rest.sum())


# ---- colour ----


def _coloured(inside: NDArray[Any]) -> bool:
    low, high = percentiles(inside, (LOW, HIGH))
    channels = list(inside.astype(np.promote_types(inside.dtype, np.float32)).T)
    spread = np.maximum.reduce(channels) - np.minimum.reduce(channels)
    return bool(high > low and float(spread.mean()) > CHROMA * (high - low))


def _on_dark_ground(inside: NDArray[Any]) -> bool:
    """Whether colours (N, 3) are those of fluorescence: a quarter of the pixels is dark in all of them."""
    if not _coloured(inside):
        return False
    ranges = np.array([percentiles(inside[:, c], (LOW, HIGH)) for c in range(inside.shape[1])]).T
    width = float((ranges[1] - ranges[0]).max())
    above = np.maximum.reduce([inside[:, c] - ranges[0, c] for c in range(inside.shape[1])])
    return bool(float(np.percentile(above, 25)) < DARK_GROUND * width)


def _channels_apart(inside: NDArray[Any], names: Sequence[str] | None) -> list[Reading]:
    """Each channel of values (N, C) that holds something by itself, the widest first, and all together."""
    names = names or [f"channel {c}" for c in range(inside.shape[1])]
    single = {c: _ranges(inside[:, c]) for c in range(inside.shape[1])}
    width = {c: r[-1].high[0] - r[-1].low[0] for c, r in single.items()}
    used = [c for c in sorted(width, key=lambda c: -width[c]) if width[c] > USED * max(width.values())]
    if not used:
        return [NOTHING]
    found = []
    for c in used:
        told = f"only {names[c]} is looked at" + ("" if len(used) > 1 else ": the other channels are empty")
        found += [
            replace(r, channels=(c,), note=", ".join(n for n in (told, r.note) if n)) for r in single[c]
        ]
    if len(used) > 1:
        both = sorted(used)
        low, high = (tuple(getattr(single[c][0], end)[0] for c in both) for end in ("low", "high"))
        told = f"{', '.join(names[c] for c in both)} are looked at together"
        found.append(Reading(low, high, tuple(both), note=told))
    return found


def _stains_apart(image: NDArray[Any], inside: NDArray[Any]) -> list[Reading]:
    """Of brown slides: haematoxylin, and it with DAB, for markers that lie in nuclei.

    Parameters
    ----------
    inside : (N, 3) values of the image (H, W, 3) where it shows something.
    """
    white = percentiles(inside, (HIGH,))[0]
    if not shows_brown(image, white):
        return []
    found = densities(inside, white)
    return [r for name in STAINS if (r := _of_stains(found, white, name)) is not NOTHING]


def _of_stains(found: NDArray[np.float32], white: float, name: str) -> Reading:
    """Range of the sum of some densities (N, 3)."""
    stains, told = STAINS[name]
    low, high = percentiles(found[:, stains].sum(axis=1), (LOW, HIGH))
    return Reading((low,), (high,), stains=stains, white=white, note=told) if high > low else NOTHING
