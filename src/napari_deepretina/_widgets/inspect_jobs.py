"""What Inspect computes off the GUI thread: each job ends with a picture, numbers, or both."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from napari_deepretina._widgets.jobs import ModelCache
from napari_deepretina._widgets.safe_import import import_torch
from napari_deepretina.inference.steps import Progress


def detection_job(
    image: Any, weights: str, device: str, score: float, diameter: float | None, cache: ModelCache
) -> Generator[Any, None, Any]:
    """An `Inspection` of one image."""
    yield Progress(0.0, "starting PyTorch")
    import_torch()
    from napari_deepretina.inspection.steps import inspect_image

    yield Progress(0.1, "loading weights")
    model = cache.get(weights, device)
    from napari_deepretina.inference.settings import make_settings

    yield Progress(0.3, "looking for nuclei, keeping every step")
    settings = make_settings(score=score).postprocessing(model.info)
    return inspect_image(model, image, settings, diameter=diameter)


def weights_job(weights: str, other: str | None, cache: ModelCache) -> Generator[Any, None, Any]:
    """(PNG, rows of layer, shape, outliers, dead filters, change)."""
    yield Progress(0.0, "starting PyTorch")
    import_torch()
    from napari_deepretina.inspection.figures import changes_figure, png, weights_figure
    from napari_deepretina.inspection.weights import changes, layers_of
    from napari_deepretina.model.weights import load_model

    yield Progress(0.2, "loading weights")
    model = cache.get(weights, "cpu")
    layers = layers_of(model)
    yield Progress(0.6, "drawing")
    if other is None:
        picture, change = png(weights_figure(layers, 12, columns=2, font=11), 110), {}
    else:
        change = changes(model, load_model(other))
        picture = png(changes_figure(change), 110)
    return picture, layers, change


def data_job(path: str, recipe: str) -> Generator[Any, None, Any]:
    """(PNG of crops, PNG of numbers, Overview, data set)."""
    yield Progress(0.0, "starting PyTorch")
    import_torch()
    from napari_deepretina.data.open import open_dataset
    from napari_deepretina.inspection.data import crops_of, overview, unpaired
    from napari_deepretina.inspection.figures import montage_figure, overview_figure, png
    from napari_deepretina.training.recipe import load_recipe

    yield Progress(0.1, "reading the images")
    dataset, _ = open_dataset(path, lonely_too=True)
    told = overview(dataset)
    told.oddities += unpaired(path)
    yield Progress(0.7, "making crops")
    crops = crops_of(dataset, load_recipe(recipe), count=8)
    return png(montage_figure(crops)), png(overview_figure(told)), told, dataset


def errors_job(image: Any, truth: Any, labels: Any, scores: Any) -> Generator[Any, None, Any]:
    """(PNG, Errors, picture of kinds)."""
    yield Progress(0.2, "comparing")
    from napari_deepretina.inspection.errors import compare_labels
    from napari_deepretina.inspection.figures import errors_figure, png

    errors = compare_labels(truth, labels)
    yield Progress(0.6, "drawing")
    return png(errors_figure(errors, image, truth, labels, scores)), errors, errors.picture(truth, labels)
