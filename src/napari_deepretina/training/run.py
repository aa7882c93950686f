"""From what a person writes on the command line to a training run."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from napari_deepretina.data import Dataset, Subset, open_dataset
from napari_deepretina.data.joined import JoinedDataset
from napari_deepretina.data.split import random_split, read_split
from napari_deepretina.errors import UserError
from napari_deepretina.files import exists, refuse_inputs
from napari_deepretina.model.network import Network, build
from napari_deepretina.model.published import COCO_FULL, IMAGENET, start_from_published
from napari_deepretina.model.weights import DEFAULT, WeightsInfo, load_model
from napari_deepretina.training.fit import fit
from napari_deepretina.training.forecast import forecast
from napari_deepretina.training.machine import Machine
from napari_deepretina.training.recipe import Recipe, load_recipe

T = TypeVar("T")

WRITTEN = ("recipe.toml", "weights.safetensors", "events.jsonl", "sample/image.tif", "sample/labels.tif")
"""What a run writes into its folder, beside checkpoints and TensorBoard's files."""


@dataclass(frozen=True)
class Plan:
    """All that a run is made of; from `plan_training`."""

    recipe: Recipe
    train: Dataset
    val: Dataset
    start: tuple[Network, WeightsInfo] | None = None

    def forecast(self, device: str = "auto") -> str:
        """What the run would do and take, as text; may be asked once, for it trains the start a little."""
        network = self.start[0] if self.start else None
        return forecast(self.recipe, self.train, self.val, network, _accelerator(device))

    def run(self, out: Path, *, resume: bool = False, device: str = "auto", devices: int = 1) -> Path:
        """Train; see `napari_deepretina.training.fit.fit`. Path of the weights."""
        machine = Machine(_accelerator(device), devices)
        return fit(self.recipe, self.train, self.val, out, start=self.start, resume=resume, machine=machine)


def plan_training(
    recipe_name: str,
    data: Sequence[str],
    *,
    weights: str = "random",
    split: str | None = None,
    overrides: Sequence[str] = (),
    incomplete: Sequence[str] = (),
    out: Path | None = None,
    resume: bool = False,
) -> Plan:
    """Check everything that can be known before training.

    Parameters
    ----------
    recipe_name : of a recipe in the package, or a file.
    data : data sets, as in `split_data`.
    weights : as in `starting_point`.
    overrides : ``STAGE.KEY=VALUE``.
    incomplete : as in `split_data`.
    out, resume : given, the folder is checked as well.

    Raises
    ------
    UserError
        If recipe, data, weights or folder cannot work; all problems that can be known are told together.
    """
    problems: list[str] = []
    recipe = _told_together(problems, lambda: load_recipe(recipe_name, overrides))
    parts = _told_together(problems, lambda: split_data(data, split, incomplete))
    if out is not None:
        _told_together(problems, lambda: _folder_is_fit(out, resume))
    if recipe is None or parts is None or problems:
        raise UserError("; ".join(problems))
    train, val = parts
    if not any(train[i].labels.any() for i in range(len(train))):
        raise UserError(f"none of the {len(train)} images to train on has a nucleus in its labels")
    start = starting_point(weights, recipe, class_names(train))
    if start is None:
        architecture = recipe.architecture.model_copy(update={"classes": class_names(train)})
        recipe = recipe.model_copy(update={"architecture": architecture})
    return Plan(recipe, train, val, start)


def _accelerator(device: str) -> str:
    """Fabric's name of it."""
    return {"cuda": "gpu"}.get(device, device)


def _told_together(problems: list[str], work: Callable[[], T]) -> T | None:
    """The work's answer; None and one more problem, if a person must mend something."""
    try:
        return work()
    except UserError as error:
        problems.append(str(error))
        return None


def _folder_is_fit(out: Path, resume: bool) -> None:
    last = out / "checkpoints" / "last.ckpt"
    if resume and not last.exists():
        raise UserError(f"nothing to resume: {last} does not exist")
    if not resume and last.exists():
        raise UserError(
            f"{out} holds a run already: go on with it (--resume), or choose another folder (--out)"
        )
    for name in WRITTEN:
        refuse_inputs(out / name)
        if exists(out / name) and not exists(out / "events.jsonl"):
            raise UserError(
                f"{out / name} is there already and was not written by a run: it is not replaced, "
                "choose another folder (--out)"
            )


def split_data(
    data: Sequence[str], split: str | None = None, incomplete: Sequence[str] = ()
) -> tuple[Dataset, Dataset]:
    """Training and validation images of one or several data sets.

    Each set is split by the file given, else by the split in or beside it, else at random
    (one tenth held out, the same ones each time). ``PATH@3`` takes a set three times as often.
    Sets that are named in `incomplete` as well have unlabelled nuclei: see `Sample.complete`.
    """
    known = [_weighted(text)[0] for text in data]
    if strangers := [path for path in incomplete if path not in known]:
        raise UserError(
            f"{strangers[0]} is said to have unlabelled nuclei but is not among the data: {', '.join(known)}"
        )
    train: list[Dataset] = []
    val: list[Dataset] = []
    weights: list[int] = []
    given = read_split(split) if split else None
    for text in data:
        path, weight = _weighted(text)
        dataset, found = open_dataset(path)
        chosen = given or found or random_split(dataset.names)
        train.append(Subset(dataset, chosen.train, complete=path not in incomplete))
        val.append(Subset(dataset, chosen.val))
        weights.append(weight)
    if not sum(map(len, train)) or not sum(map(len, val)):
        raise UserError("the split leaves no images to train on, or none to validate on")
    return JoinedDataset(train, weights, ", ".join(Path(d).name for d in data)), JoinedDataset(val)


def _weighted(text: str) -> tuple[str, int]:
    """Path and weight of ``PATH@3``; a file of that very name wins."""
    match = re.fullmatch(r"(.+)@([1-9]\d*)", text)
    return (text, 1) if match is None or Path(text).exists() else (match[1], int(match[2]))


def class_names(dataset: Dataset) -> tuple[str, ...]:
    """Names of the classes that a data set tells apart; one, unless it says otherwise."""
    return tuple(getattr(dataset, "class_names", ("nucleus",)))


def starting_point(
    weights: str, recipe: Recipe, classes: tuple[str, ...] = ("nucleus",)
) -> tuple[Network, WeightsInfo] | None:
    """``random``, ``bundled``, ``coco``, ``imagenet`` (backbone only), a known name or a weights file.

    A network for other classes starts with fresh output layers.
    """
    if weights == "random":
        return None
    if weights in (COCO_FULL, IMAGENET):
        architecture = recipe.architecture.model_copy(update={"classes": classes})
        network = build(architecture, seed=recipe.seed)
        return network, start_from_published(weights, network)
    model = load_model(DEFAULT if weights == "bundled" else weights)
    if model.info.architecture.classes == classes:
        return model.network, model.info
    return for_classes(model.network, classes, recipe.seed), model.info


def for_classes(network: Network, classes: tuple[str, ...], seed: int) -> Network:
    """The same network for other classes: what depends on their number is drawn at random."""
    new = build(network.architecture.model_copy(update={"classes": classes}), seed=seed)
    fresh = new.state_dict()
    same = {k: v for k, v in network.state_dict().items() if v.shape == fresh[k].shape}
    new.load_state_dict({**fresh, **same})
    return new
