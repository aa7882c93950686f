"""All that can be inspected of an image, a weights file and a data set, as pictures and numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.data.ours import MARK, PROGRAM, refuse_others
from napari_deepretina.files import write_text, written_whole
from napari_deepretina.inspection import STEPS, figures
from napari_deepretina.inspection.data import crops_of, overview, unpaired
from napari_deepretina.inspection.errors import compare_labels
from napari_deepretina.inspection.steps import Inspection
from napari_deepretina.inspection.story import story_of, why_missed
from napari_deepretina.inspection.weights import changes, layers_of
from napari_deepretina.model.weights import LoadedModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from napari_deepretina.data.sample import Dataset
    from napari_deepretina.training.recipe import Recipe


class Report:
    """A folder of PNG pictures, and ``numbers.json`` that grows with them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.numbers: dict[str, Any] = {}

    def image(
        self,
        inspection: Inspection,
        image: NDArray[Any],
        *,
        truth: NDArray[np.integer] | None = None,
        places: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Steps, activations, stories of the places asked for (y, x), and errors against a truth."""
        self.picture("steps", figures.steps_figure(inspection, image))
        self.picture("activations", figures.activations_figure(inspection))
        self.numbers["steps"] = {s: _plain(inspection.boxes(s, 100)) for s in STEPS[:6]}
        self.numbers["nuclei"] = len(inspection.instances)
        self.numbers["places"] = [self._place(inspection, image, y, x, truth) for y, x in places]
        if truth is not None:
            errors = compare_labels(truth, inspection.labels)
            scores = inspection.instances.scores
            drawn = figures.errors_figure(errors, image, truth, inspection.labels, scores)
            self.picture("errors", drawn)
            self.numbers["errors"] = errors.to_json()

    def _place(
        self, inspection: Inspection, image: NDArray[Any], y: int, x: int, truth: NDArray[np.integer] | None
    ) -> dict[str, Any]:
        label = int(inspection.labels[y, x])
        if label:
            story = story_of(inspection, label)
            self.picture(f"nucleus-{label}", figures.story_figure(story, image))
            return {"y": y, "x": x, "nucleus": label, "told": story.sentence, **story.numbers}
        missed = why_missed(inspection, y, x, truth)
        return {"y": y, "x": x, "nucleus": 0, "lost at": missed.step, "told": missed.sentence}

    def weights(self, model: LoadedModel, other: LoadedModel | None = None) -> None:
        """Histograms, outliers and dead filters; with another file, the change of each layer."""
        layers = layers_of(model)
        self.picture("weights", figures.weights_figure(layers))
        self.numbers["weights"] = [layer.to_json() for layer in layers]
        if other is not None:
            told = changes(model, other)
            self.picture("changes", figures.changes_figure(told))
            self.numbers["changes"] = told

    def data(self, path: str, dataset: Dataset, recipe: Recipe) -> None:
        """Numbers of a data set, what is odd in it, and crops as training sees them."""
        told = overview(dataset)
        told.oddities += unpaired(path)
        self.picture("data", figures.overview_figure(told))
        self.picture("crops", figures.montage_figure(crops_of(dataset, recipe)))
        self.numbers["data"] = told.to_json()

    def picture(self, name: str, figure: Figure) -> Path:
        """Write one picture."""
        target = self.folder / f"{name}.png"
        refuse_others(target)
        with written_whole(target) as part:
            part.write_bytes(figures.png(figure))
        return target

    def finish(self) -> Path:
        """Write the numbers."""
        target = self.folder / "numbers.json"
        refuse_others(target)
        write_text(target, json.dumps({PROGRAM: MARK, **self.numbers}, indent=1))
        return target


def _plain(columns: dict[str, NDArray[Any]]) -> dict[str, list[Any]]:
    rounded = {k: np.round(v, 4) if v.dtype.kind == "f" else v for k, v in columns.items()}
    return {k: v.astype(object).tolist() for k, v in rounded.items()}
