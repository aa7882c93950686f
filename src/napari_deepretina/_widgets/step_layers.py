"""The steps of a detection as napari layers over the image, each made when it is first looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import napari.viewer
import numpy as np
from napari.layers import Image, Labels, Layer, Shapes
from numpy.typing import NDArray

from napari_deepretina._widgets.own_labels import digest
from napari_deepretina._widgets.placing import bright_colours, placement
from napari_deepretina.inspection import MATCH_COLOURS, MATCHES, STEPS
from napari_deepretina.inspection.errors import KIND_COLOURS, KINDS

if TYPE_CHECKING:
    from napari_deepretina.inspection.learning import Learning
    from napari_deepretina.inspection.steps import Inspection

LEVEL_COLOURS = {2: "#4cc9f0", 3: "#80ed99", 4: "#ffd166", 5: "#f78c6b", 6: "#ef476f"}
PREFIX = "inspect: "
ERRORS = f"{PREFIX}errors"
ANCHORS, REGIONS = f"{PREFIX}anchors learnt from", f"{PREFIX}regions learnt from"
MOST_BOXES = 250


class StepLayers:
    """One layer a step, named after it; only the step that is looked at is visible."""

    def __init__(self, viewer: napari.viewer.Viewer, inspection: Inspection, placed: dict[str, Any]) -> None:
        self._viewer, self.inspection, self._placed = viewer, inspection, placed
        self.layers: dict[str, Layer] = {}
        self.maps: list[Layer] = []
        self._states: dict[Layer, str] = {}

    def show(self, step: str) -> Layer:
        """Make this step's layer visible and hide the others; its layer."""
        layer = self.layers.get(step)
        if layer is None or layer not in self._viewer.layers:
            active = self._viewer.layers.selection.active
            layer = self._viewer.add_layer(self._made(step))
            self.layers[step] = layer
            self._states[layer] = _state(layer)
            self._viewer.layers.selection.active = active
        for name, other in self.layers.items():
            other.visible = name == step
        return layer

    def remove(self, *, keep: Sequence[Layer] = ()) -> None:
        """Take all of them away, feature maps too, but for those to be kept, which are not ours any more."""
        for layer in (*self.layers.values(), *self.maps):
            if layer in self._viewer.layers and layer not in keep:
                self._viewer.layers.remove(layer)
        self.layers, self.maps = {}, []

    def take_away(self, may_keep: Callable[[list[str]], bool]) -> None:
        """Remove all, but for what a person changed and, being asked, wants to keep under another name."""
        kept = self.changed
        if kept and not may_keep([x.name for x in kept]):
            kept = []
        self.remove(keep=kept)
        for layer in kept:
            layer.name = layer.name.removeprefix(PREFIX)

    @property
    def changed(self) -> list[Layer]:
        """Layers that a person painted or drew on."""
        return [x for x in self.layers.values() if x in self._viewer.layers and _state(x) != self._states[x]]

    def add_activation(self, name: str) -> Image:
        """A feature map as a stack of its channels."""
        maps, scale, translate = self.inspection.activation(name)
        placed = under(self._placed, scale, translate)
        layer = Image(maps, name=f"{PREFIX}{name}", colormap="viridis", opacity=0.7, **placed)
        self._viewer.add_layer(layer)
        self.maps.append(layer)
        return layer

    def add_learning(self, learning: Learning) -> None:
        """Anchors and regions that a training step would learn from, in the place of earlier ones."""
        for layer in [x for x in self.maps if x.name in (ANCHORS, REGIONS)]:
            self.maps.remove(layer)
            if layer in self._viewer.layers:
                self._viewer.layers.remove(layer)
        neutral = np.flatnonzero(learning.match == -1)
        neutral = np.random.default_rng(0).permutation(neutral)[:MOST_BOXES]
        drawn = np.concatenate([neutral, np.flatnonzero(learning.drawn)])
        kinds = [MATCHES[k] for k in learning.match[drawn].tolist()]
        regions = ["positive" if c else "negative" for c in learning.classes.tolist()]
        for name, boxes, told in (
            (ANCHORS, learning.anchors[drawn], kinds),
            (REGIONS, learning.regions, regions),
        ):
            layer = Shapes(
                corners_of(boxes),
                shape_type="rectangle",
                name=name,
                features={"kind": np.array(told, dtype=object)},
                edge_color=[MATCH_COLOURS[kind] for kind in told],
                face_color="transparent",
                edge_width=0.8,
                opacity=1,
                visible=name == ANCHORS,
                **self._placed,
            )
            self._viewer.add_layer(layer)
            self.maps.append(layer)
        for layer in self.layers.values():
            layer.visible = False

    def _made(self, step: str) -> Layer:
        name = PREFIX + step
        if step in STEPS[:6]:
            columns = self.inspection.boxes(step, MOST_BOXES)
            features = {k: v for k, v in columns.items() if k != "box"}
            return Shapes(
                corners_of(columns["box"]),
                shape_type="rectangle",
                name=name,
                features=features,
                edge_color=[LEVEL_COLOURS[level] for level in columns["level"].tolist()],
                face_color="transparent",
                edge_width=0.8,
                opacity=1,
                **self._placed,
            )
        if step == STEPS[6]:
            soft = self.inspection.soft_masks()
            return Image(
                soft,
                name=name,
                colormap="magma",
                contrast_limits=(0, 1),
                blending="translucent",
                opacity=0.75,
                **self._placed,
            )
        labels = self.inspection.pasted() if step == STEPS[7] else self.inspection.labels.copy()
        layer = Labels(labels, name=name, colormap=bright_colours(), **self._placed)
        if step == STEPS[8]:
            scores = self.inspection.instances.scores
            layer.features = {
                "index": self.inspection.instances.ids,
                "score": scores,
                "detection": self.inspection.instances.sources,
            }
        return layer


def under(placed: dict[str, Any], scale: Sequence[float], translate: Sequence[float]) -> dict[str, Any]:
    """Placement of a stack whose rows and columns lie so in an image that is placed itself.

    Parameters
    ----------
    placed : of the image, as from `placement`; it may be turned and sheared.
    scale, translate : (y, x) of the stack, in the image's pixels.
    """
    own, rotate = np.asarray(placed["scale"]), np.asarray(placed["rotate"])
    shear = np.eye(2)
    shear[0, 1] = float(np.ravel(placed["shear"])[0])
    turned, affine = np.eye(3), np.eye(4)
    turned[1:, 1:] = rotate
    affine[1:, 1:] = placed["affine"]
    shift = np.asarray(placed["translate"]) + rotate @ shear @ (own * translate)
    return {
        "scale": [1, *(own * scale)],
        "translate": [0, *shift],
        "rotate": turned,
        "shear": [0, 0, shear[0, 1]],
        "affine": affine,
        "units": ["pixel", *placed["units"]],
        "axis_labels": ["channel", *placed["axis_labels"]],
    }


def _state(layer: Layer) -> str:
    """Changes when a person paints or draws on a layer."""
    if isinstance(layer, Shapes):
        return digest(np.concatenate([np.ravel(s) for s in layer.data] or [np.zeros(0)]))
    return digest(layer.data) if isinstance(layer, Labels) else ""


def corners_of(boxes: NDArray[Any]) -> NDArray[np.float64]:
    """(N, 4, 2) corners (y, x) of xyxy boxes, where a pixel's centre has its index."""
    x0, y0, x1, y1 = (np.asarray(boxes, float) - 0.5).T
    return np.stack([np.stack(c, axis=-1) for c in ((y0, x0), (y0, x1), (y1, x1), (y1, x0))], axis=1)


def errors_layer(kinds: NDArray[Any], predicted: Labels) -> Labels:
    """Hits, misses and the like over the labels that were compared."""
    from napari.utils.colormaps import DirectLabelColormap

    colours: dict[int | None, Any] = {None: "transparent", 0: "transparent"}
    colours |= {k: KIND_COLOURS[kind] for k, kind in enumerate(KINDS, start=1)}
    placed = placement(predicted, range(predicted.ndim))
    layer = Labels(kinds, name=ERRORS, colormap=DirectLabelColormap(color_dict=colours), **placed)
    layer.contour = 2
    return layer


def remove_errors(viewer: napari.viewer.Viewer) -> None:
    """Take the layer of an earlier comparison away."""
    for layer in [x for x in viewer.layers if x.name == ERRORS]:
        viewer.layers.remove(layer)


def scores_of(labels: Labels) -> np.ndarray | None:
    """Scores of labels 1 … N, from the layer's features; None unless all of them have one."""
    features, most = labels.features, int(np.asarray(labels.data).max(initial=0))
    if "score" not in features or "index" not in features:
        return None
    scores = features.set_index("index")["score"].reindex(range(1, most + 1)).to_numpy(float)
    present = np.unique(labels.data)
    known = np.isfinite(scores[present[present > 0] - 1]).all()
    return np.nan_to_num(scores) if known else None
