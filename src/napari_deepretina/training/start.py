"""The weights that training starts from, fitted to the recipe and to the classes of the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from napari_deepretina.data import Dataset
from napari_deepretina.data.tissue import most_need_specialist
from napari_deepretina.errors import UserError
from napari_deepretina.model.header import WeightsInfo
from napari_deepretina.model.matterport.coco_names import COCO_NAMES
from napari_deepretina.model.matterport.keras_shapes import classes_in
from napari_deepretina.model.matterport.keras_weights import import_keras, info_of
from napari_deepretina.model.network import Network, build
from napari_deepretina.model.published import COCO_FULL, IMAGENET, start_from_published
from napari_deepretina.model.weights import DEFAULT, find, is_keras, load_model
from napari_deepretina.training.recipe import Recipe

RANDOM, BUNDLED = "random", "bundled"


def starting_point(
    weights: str,
    recipe: Recipe,
    classes: tuple[str, ...] = ("nucleus",),
    images: Dataset | None = None,
) -> tuple[Network, WeightsInfo] | None:
    """The network to start from, with its description; None for random weights.

    Parameters
    ----------
    weights : ``random``, ``bundled``, ``coco``, ``imagenet`` (backbone only), or whatever
        `napari_deepretina.model.weights.find` takes. A network for other classes starts with fresh output
        layers; a Keras file is laid out as the recipe's architecture says.
    images : what is to be trained on: of a pair of networks the one for tissue learns, if most show tissue or
        unstained cells.

    Raises
    ------
    UserError
        If the weights cannot be had, or the recipe cannot start from them.
    """
    if weights == RANDOM:
        _refuse_random(recipe)
        return None
    if weights in (COCO_FULL, IMAGENET):
        architecture = recipe.architecture.model_copy(update={"classes": classes})
        network = build(architecture, seed=recipe.seed)
        return network, start_from_published(weights, network)
    path = find(DEFAULT if weights == BUNDLED else weights)
    if is_keras(path):
        return _from_keras(path, recipe, classes)
    model = load_model(path)
    if model.beside is not None and images is not None and most_need_specialist(images):
        model = model.for_tissue()
    if model.info.architecture.classes == classes:
        return model.network, model.info
    return for_classes(model.network, classes, recipe.seed), model.info


def _refuse_random(recipe: Recipe) -> None:
    """Random weights have no statistics that could be kept, and no features that heads could build on."""
    remedy = "start from others (--weights coco, imagenet, bundled or a file)"
    if recipe.architecture.is_matterport:
        raise UserError(
            f"recipe {recipe.name} cannot start from random weights: Matterport's network never learns the "
            f"statistics of its batch-norm; {remedy}"
        )
    first = recipe.stages[0]
    if first.batch_norm == "frozen":
        raise UserError(
            f"stage {first.name} keeps the statistics of batch-norm, which random weights do not have; "
            f"{remedy}, or let it learn them (--set {first.name}.batch_norm=train)"
        )
    if first.layers != "all":
        raise UserError(
            f"stage {first.name} leaves parts of the backbone as they are, which is no use with random "
            f"weights; {remedy}, or train everything (--set {first.name}.layers=all)"
        )


def _from_keras(path: Path, recipe: Recipe, classes: tuple[str, ...]) -> tuple[Network, WeightsInfo]:
    """Output layers are kept where the file tells the same classes apart."""
    count = classes_in(path)
    same = count == len(classes) and (count != len(COCO_NAMES) or classes == COCO_NAMES)
    laid = recipe.architecture
    described: dict[str, Any] = {}
    if laid.is_matterport:
        fields = ("anchor_sizes", "short_side", "long_side", "resize", "roi_canonical_size")
        described = {name: getattr(laid, name) for name in fields}
    imported = import_keras(path, exclude=() if same else ("heads",), classes=classes, **described)
    return imported.network, info_of(imported, path.stem, path.name)


def for_classes(network: Network, classes: tuple[str, ...], seed: int) -> Network:
    """The same network for other classes: what depends on their number is drawn at random."""
    new = build(network.architecture.model_copy(update={"classes": classes}), seed=seed)
    fresh = new.state_dict()
    same = {k: v for k, v in network.state_dict().items() if v.shape == fresh[k].shape}
    new.load_state_dict({**fresh, **same})
    return new
