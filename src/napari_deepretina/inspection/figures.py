"""Pictures of everything that is inspected, as matplotlib figures: no window, no global state."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from napari_deepretina.data.normalise import normalise
from napari_deepretina.data.ours import MARK
from napari_deepretina.evaluation.scores import THRESHOLDS
from napari_deepretina.inspection import MATCH_COLOURS, MATCHES, STEPS
from napari_deepretina.inspection.data import Overview, SeenCrop
from napari_deepretina.inspection.errors import KIND_COLOURS, KINDS, Errors, precision_recall
from napari_deepretina.inspection.learning import Learning
from napari_deepretina.inspection.steps import Inspection
from napari_deepretina.inspection.story import Story
from napari_deepretina.inspection.weights import LayerWeights
from napari_deepretina.instances import Instances

LEVEL_COLOURS = {2: "#4cc9f0", 3: "#80ed99", 4: "#ffd166", 5: "#f78c6b", 6: "#ef476f"}


def steps_figure(inspection: Inspection, image: NDArray[Any], most: int = 200) -> Figure:
    """All steps of the detection, side by side, boxes in the colours of their levels."""
    figure = Figure(figsize=(12, 12), layout="constrained")
    shown = normalise(image).clip(0, 1)
    for place, step in enumerate(STEPS):
        axes = picture_on(figure.add_subplot(3, 3, place + 1), shown, step)
        if step in STEPS[:6]:
            columns = inspection.boxes(step, most)
            draw_boxes(axes, columns["box"], [LEVEL_COLOURS[level] for level in columns["level"].tolist()])
            axes.set_title(f"{step} ({len(columns['box'])} surest)")
        elif step == STEPS[6]:
            axes.imshow(inspection.soft_masks(), cmap="magma", vmin=0, vmax=1)
        else:
            labels = inspection.pasted() if step == STEPS[7] else inspection.labels
            axes.imshow(coloured(labels), alpha=0.6)
            axes.set_title(f"{step} ({len(np.unique(labels)) - 1})")
    return figure


def story_figure(story: Story, image: NDArray[Any]) -> Figure:
    """One nucleus: its anchor, proposal, final box, and its mask."""
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    boxes = np.array(list(story.boxes.values()))
    low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    axes = picture_on(figure.add_subplot(1, 2, 1), normalise(image).clip(0, 1), f"nucleus {story.label}")
    colours = {"anchor": "#4cc9f0", "proposal": "#ffd166", "final": "#80ed99", "mask": "#ef476f"}
    for name, box in story.boxes.items():
        draw_boxes(axes, box[None], [colours[name]], label=name)
    margin = 0.3 * (high - low) + 2
    axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
    axes.set_ylim(high[1] + margin[1], low[1] - margin[1])
    axes.legend(fontsize=7, loc="upper right")
    axes = picture_on(figure.add_subplot(1, 2, 2), story.mask, f"mask, score {story.numbers['score']:.2f}")
    axes.images[0].set(cmap="magma", clim=(0, 1))
    return figure


def detections_figure(
    image: NDArray[Any], instances: Instances, class_names: Sequence[str], most: int = 100
) -> Figure:
    """The image with masks, boxes, class names and scores, the surest `most`."""
    figure = Figure(figsize=(9, 9), layout="constrained")
    axes = picture_on(figure.add_subplot(), normalise(image).clip(0, 1), f"{len(instances)} objects")
    surest = instances[np.argsort(-instances.scores, kind="stable")[:most]]
    axes.imshow(coloured(surest.to_labels()), alpha=0.4)
    for box, number, score in zip(surest.tight_boxes(), surest.classes, surest.scores, strict=True):
        draw_boxes(axes, box[None], ["#ffffff"], width=0.6)
        told = f"{class_names[number - 1]} {score:.2f}"
        axes.text(box[0], box[1] - 1, told, fontsize=7, color="white", va="bottom")
    return figure


def anchors_figure(learning: Learning, image: NDArray[Any], most: int = 150) -> Figure:
    """Positive, negative and neutral anchors, `most` of each, and the true boxes they should become."""
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    shown, rng = normalise(image).clip(0, 1), np.random.default_rng(0)
    for place, (number, name) in enumerate(MATCHES.items(), start=1):
        found = np.flatnonzero((learning.match == number) & (learning.drawn | (number == -1)))
        some = rng.permutation(found)[:most]
        title = f"{name}: {learning.counts[name]}, {len(some)} shown"
        axes = picture_on(figure.add_subplot(1, 3, place), shown, title)
        draw_boxes(axes, learning.anchors[some], [MATCH_COLOURS[name]] * len(some), width=0.7)
        if number == 1:
            wanted = learning.truth[learning.matched[some]]
            draw_boxes(axes, wanted, ["#ffffff"] * len(some), width=0.7)
    return figure


def regions_figure(learning: Learning, image: NDArray[Any], masks: int = 12) -> Figure:
    """Regions that a step learns from, and what the mask head should answer for some positive ones."""
    figure = Figure(figsize=(12, 6), layout="constrained")
    shown, columns = normalise(image).clip(0, 1), 6
    parts: Any = figure.subfigures(1, 2)
    left, right = parts
    title = f"{learning.counts['positive regions']} positive, {learning.counts['negative regions']} negative"
    axes = picture_on(left.add_subplot(), shown, title)
    colours = [MATCH_COLOURS["positive" if c else "negative"] for c in learning.classes.tolist()]
    draw_boxes(axes, learning.regions, colours, width=0.7)
    for place, mask in enumerate(learning.masks[:masks]):
        axes = picture_on(right.add_subplot(-(-masks // columns), columns, place + 1), mask, "")
        axes.set_title(f"IoU {learning.overlap[place]:.2f}", fontsize=7)
    return figure


def overlaps_figure(overlaps: NDArray[Any], scores: NDArray[Any]) -> Figure:
    """IoU of each prediction (rows) with each true object (columns)."""
    wide = max(4.0, min(14.0, 0.3 * overlaps.shape[1]))
    figure = Figure(figsize=(wide, max(4.0, min(14.0, 0.25 * len(overlaps)))), layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(overlaps, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    axes.set(xlabel="true object", ylabel="prediction, surest first")
    axes.set_yticks(range(len(scores)), [f"{s:.2f}" for s in scores], fontsize=6)
    figure.colorbar(picture, label="IoU")
    return figure


def activations_figure(inspection: Inspection) -> Figure:
    """Mean over the channels of every feature map."""
    figure = Figure(figsize=(12, 5.5), layout="constrained")
    for place, (name, maps) in enumerate(inspection.traced.maps.items()):
        axes = picture_on(figure.add_subplot(2, 5, place + 1), maps.mean(axis=0), f"{name} {maps.shape}")
        axes.images[0].set_cmap("viridis")
        axes.images[0].autoscale()
    return figure


def weights_figure(
    layers: Sequence[LayerWeights], most: int = 24, columns: int = 6, font: float = 7
) -> Figure:
    """Histograms of the `most` largest layers, in so many columns, with titles of so many points."""
    largest = sorted(layers, key=lambda layer: -int(np.prod(layer.shape)))[:most]
    chosen = [layer for layer in layers if layer in largest]
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(2.3 * columns, 2.2 * rows), layout="constrained")
    for place, layer in enumerate(chosen):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.stairs(layer.counts, layer.edges, fill=True)
        axes.set_yscale("symlog")
        told = f"{layer.outliers} far" + (f", {len(layer.dead)} dead" if layer.dead else "")
        axes.set_title(f"{_tail(layer.name, int(238 / font))}\n{told}", fontsize=font)
        axes.tick_params(labelsize=font - 1)
    return figure


def changes_figure(told: Mapping[str, Mapping[str, float]]) -> Figure:
    """Mean change of each layer, in units of its deviation."""
    figure = Figure(figsize=(8, 0.16 * len(told) + 1), layout="constrained")
    axes = figure.add_subplot()
    axes.barh([_tail(n) for n in told], [c["relative"] for c in told.values()])
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=5)
    axes.set_xlabel("mean change / standard deviation before")
    return figure


def montage_figure(crops: Sequence[SeenCrop]) -> Figure:
    """What training sees, with boxes and labels."""
    columns = min(4, max(1, len(crops)))
    rows = -(-len(crops) // columns)
    figure = Figure(figsize=(3 * columns, 3 * rows), layout="constrained")
    for place, crop in enumerate(crops):
        axes = picture_on(
            figure.add_subplot(rows, columns, place + 1), crop.image, f"{len(crop.boxes)} nuclei"
        )
        axes.imshow(coloured(crop.labels), alpha=0.35)
        draw_boxes(axes, crop.boxes, ["#ffffff"] * len(crop.boxes), width=0.7)
    return figure


def overview_figure(told: Overview) -> Figure:
    """Sizes, nuclei per image, diameters and intensities of a data set."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    axes = figure.add_subplot(2, 2, 1)
    sizes = told.sizes.most_common(12)
    axes.barh(["×".join(map(str, s)) for s, _ in sizes], [n for _, n in sizes])
    axes.invert_yaxis()
    axes.set_title(f"{told.images} images, {told.nuclei} nuclei; sizes")
    varying: dict[str, list[Any]] = {
        "nuclei per image": told.per_image,
        "diameters, pixels": told.diameters,
        "mean intensity, of 255": told.intensities,
    }
    for place, (title, values) in enumerate(varying.items(), start=2):
        axes = figure.add_subplot(2, 2, place)
        axes.hist(values, bins=30)
        axes.set_title(title)
    return figure


def errors_figure(
    errors: Errors,
    image: NDArray[Any],
    truth: NDArray[np.integer],
    predicted: NDArray[np.integer],
    scores: NDArray[np.floating] | None = None,
) -> Figure:
    """Outlines by kind, AP and F1 over IoU, and with scores their histogram and precision over recall."""
    figure = Figure(figsize=(12, 8), layout="constrained")
    places: dict[str, Any] = figure.subplot_mosaic(
        [["image"] * 2 + ["curve"] * 2, ["image"] * 2 + ["scores", "pr"]]
    )
    axes = picture_on(places["image"], normalise(image).clip(0, 1), "")
    kinds = errors.picture(truth, predicted)
    outline = np.where(_edges(np.where(np.isin(kinds, [2, 4]), truth, predicted)), kinds, 0)
    colours = ListedColormap(["#00000000", *KIND_COLOURS.values()])
    axes.imshow(outline, cmap=colours, vmin=0, vmax=len(KINDS), interpolation="nearest")
    told = [f"{kind} {len(errors.kinds[kind])}" for kind in KINDS]
    handles = [Rectangle((0, 0), 1, 1, color=KIND_COLOURS[kind]) for kind in KINDS]
    axes.legend(handles, told, loc="upper right", fontsize=8)
    axes = places["curve"]
    axes.plot(THRESHOLDS, errors.score.ap, marker="o", label="AP: TP / (TP + FP + FN)")
    axes.plot(THRESHOLDS, errors.score.f1, marker="o", label="F1")
    axes.set(ylim=(0, 1.02), xlabel="IoU", title=f"score {errors.score.dsb_score:.3f}")
    axes.legend(fontsize=8)
    if scores is None or not len(scores):
        for name in ("scores", "pr"):
            places[name].remove()
        return figure
    hit = np.isin(errors.matched.pred_ids, errors.kinds["hit"])
    both = [np.asarray(scores)[errors.matched.pred_ids[part] - 1] for part in (hit, ~hit)]
    shades = [KIND_COLOURS["hit"], KIND_COLOURS["extra"]]
    places["scores"].hist(both, bins=20, range=(0, 1), stacked=True, color=shades, label=["hit", "extra"])
    places["scores"].set_title("scores", fontsize=9)
    places["scores"].legend(fontsize=7)
    _, precision, recall = precision_recall(errors, scores)
    places["pr"].plot(recall, precision)
    places["pr"].set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    return figure


def png(figure: Figure, dpi: int = 110) -> bytes:
    """A figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": MARK})
    return buffer.getvalue()


def picture_on(axes: Any, image: NDArray[Any], title: str) -> Any:
    """Show an image of 0…1 on axes, without ticks; the axes."""
    axes.imshow(image, cmap="gray", vmin=0, vmax=1)
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()
    return axes


def draw_boxes(
    axes: Any, boxes: NDArray[Any], colours: Sequence[str], *, label: str | None = None, width: float = 1
) -> None:
    """Draw (N, 4) xyxy boxes in pixels, each in its colour."""
    for (x0, y0, x1, y1), colour in zip(boxes.tolist(), colours, strict=True):
        axes.add_patch(
            Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, ec=colour, lw=width, label=label)
        )


def coloured(labels: NDArray[np.integer]) -> NDArray[np.float32]:
    """(H, W, 4) a colour for each id, nothing for background."""
    hues = (labels * 0.618034) % 1.0
    wheel = np.abs((hues[..., None] * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1
    colour = np.concatenate([0.3 + 0.7 * wheel.clip(0, 1), (labels > 0)[..., None]], axis=-1)
    return colour.astype(np.float32)


def _edges(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    edges = np.zeros(labels.shape, bool)
    edges[1:] |= labels[1:] != labels[:-1]
    edges[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edges[:-1] |= labels[1:] != labels[:-1]
    edges[:, :-1] |= labels[:, 1:] != labels[:, :-1]
    return edges & (labels > 0)


def _tail(name: str, most: int = 34) -> str:
    return name if len(name) <= most else "…" + name[1 - most :]
