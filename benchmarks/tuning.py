"""From a slider's signal to the labels layer's new data, for 1,000 nuclei on 1024×1024, drawing apart.

``xvfb-run -a -s "-screen 0 1600x1000x24" python benchmarks/tuning.py [--nuclei 1000]``

A real napari window with the Tune widget. The detections are made up: each nucleus once in each view, shaken
by less than a pixel, and 1.7 times as many doubtful ones around them, as the network leaves them.
"""

from __future__ import annotations

import argparse
import statistics
import time

import napari
import numpy as np
from qtpy.QtWidgets import QApplication

import measure
from napari_deepretina._widgets.document_view import DocumentView
from napari_deepretina._widgets.hub import hub
from napari_deepretina._widgets.own_labels import KEY, RAW, sign
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.document import of_result
from napari_deepretina.instances import RawInstances, bounding_boxes
from napari_deepretina.postprocess import PostprocessSettings, postprocess

SIDE = 1024
MOVES = {
    "score": np.linspace(0.5, 0.8, 16),
    "nms": np.linspace(0.2, 0.5, 7),
    "mask_threshold": np.linspace(0.3, 0.7, 7),
    "votes": range(2, 8),
    "merge_iou": np.linspace(0.5, 0.7, 7),
    "dilation": (1, 2, 3, 0, -1, 0),
    "min_area": (10, 50, 100, 4),
    "fill_holes": (True, False),
    "drop_border": (True, False),
    "views": (14, 12, 15),
}


def detections(nuclei: int, views: int) -> RawInstances:
    """What a network might have found."""
    _, labels = synthetic_nuclei((SIDE, SIDE), nuclei, diameter=26, seed=3)
    _, true = bounding_boxes(labels)
    rng = np.random.default_rng(0)
    parts = []
    for view in range(views):
        certain = true + rng.normal(0, 0.7, true.shape)
        doubtful = true[rng.integers(0, len(true), int(1.7 * len(true)))] + rng.normal(
            0, 5, (int(1.7 * len(true)), 4)
        )
        doubtful[:, 2:] = np.maximum(doubtful[:, 2:], doubtful[:, :2] + 3)
        boxes = np.concatenate([certain, doubtful]).clip(0, SIDE).astype(np.float32)
        scores = np.concatenate([rng.uniform(0.7, 1, len(certain)), rng.uniform(0.05, 0.6, len(doubtful))])
        y, x = np.mgrid[:28, :28] - 13.5
        disc = (255 * np.clip(1.6 - np.hypot(y, x) / 10, 0, 1)).astype(np.uint8)
        n = len(boxes)
        parts.append(
            RawInstances(
                boxes, scores.astype(np.float32), np.repeat(disc[None], n, axis=0), np.ones(n, np.int32),
                np.full(n, view, np.int32), np.zeros(n, np.int32), (SIDE, SIDE), view_count=views,
            )
        )  # fmt: skip
    return RawInstances.concatenate(parts)


def measured(viewer: napari.Viewer, nuclei: int, views: int) -> list[list[object]]:
    """One row a slider: milliseconds to the layer's data, and of drawing after it."""
    raw = detections(nuclei, views)
    settings = PostprocessSettings()
    made = postprocess(raw, settings)
    labels = made.to_labels()
    image = viewer.add_image(np.zeros((SIDE, SIDE), np.uint8), name="field")
    layer = viewer.add_labels(labels)
    sign(layer, image, {"settings": settings.model_dump(), "index": [None, None]})
    document = of_result(labels, {(): (raw, made, made.ids)}, settings)
    view = layer.metadata[RAW] = DocumentView(layer, document, settings)
    _, tune = viewer.window.add_plugin_dock_widget("napari-deepretina", "Tune")
    hub.shown.emit(layer)
    tune.nuclei.value = layer.name
    assert KEY in layer.metadata
    view.rest.setInterval(10_000)  # what catches up when the hand rests is not part of following it
    set_at = [0.0]
    # after the view's own listener, which puts the labels into the layer
    document.listeners.append(lambda _: set_at.__setitem__(0, time.perf_counter()))
    rows: list[list[object]] = []
    for name, values in MOVES.items():
        control = tune.controls[name]
        if not control.enabled:
            continue
        following, drawing = [], []
        before = control.value
        for value in [*values, before]:
            begun = time.perf_counter()
            control.value = value if isinstance(value, bool) else type(before)(value)
            if set_at[0] < begun:
                continue  # the value was the same
            QApplication.processEvents()
            following.append(1e3 * (set_at[0] - begun))
            drawing.append(1e3 * (time.perf_counter() - set_at[0]))
        rows.append(
            [views, len(made), name, f"{statistics.median(following):.0f}", f"{max(following):.0f}",
             f"{statistics.median(drawing):.0f}"]
        )  # fmt: skip
    viewer.layers.remove(layer)
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nuclei", type=int, default=1000)
    nuclei = parser.parse_args().nuclei
    viewer = napari.Viewer()
    rows = [row for views in (1, 15) for row in measured(viewer, nuclei, views)]
    print(measure.table(["views", "nuclei", "slider", "ms, median", "ms, worst", "drawing ms, median"], rows))
    viewer.close()


if __name__ == "__main__":
    main()
