"""Recipes are data: what to train, in which stages, on what views of the images."""

from __future__ import annotations

import json
import math
import textwrap
import tomllib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from napari_deepretina.data.augmentation import Augmentation
from napari_deepretina.data.sample import Dataset
from napari_deepretina.data.samplers import Sampler, round_of
from napari_deepretina.documented import meanings
from napari_deepretina.errors import UserError
from napari_deepretina.files import exists, expanded
from napari_deepretina.intake import faults, parse_json, read_text
from napari_deepretina.model.architecture import Architecture

_SHIPPED = files("napari_deepretina.training") / "recipes"


class Stage(BaseModel):
    """One stretch of training with settings of its own; its optimiser starts afresh."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    steps: int = Field(default=0, ge=0)
    """Optimiser steps; or give epochs."""
    epochs: int = Field(default=0, ge=0)
    epoch_steps: int = Field(default=0, ge=0)
    """Steps of an epoch; 0 is once through the images as the sampler counts them."""
    batch_size: int = Field(default=8, ge=1)
    """Crops a step, all devices together."""
    accumulate: int = Field(default=1, ge=1)
    """Parts in which a batch goes through the network, to save memory; batch-norm sees the parts."""
    crop: int = Field(default=256, ge=64, multiple_of=64)
    sampler: Sampler = "each"
    """Each image once a round; or copies, so that all sizes, or all counts of nuclei, come as often, or
    rarer kinds (stained tissue, dark on bright) more often."""
    layers: Literal["heads", "3+", "4+", "5+", "all"] = "all"
    """What is trained: all but the backbone, the backbone from this stage of it on, or everything."""
    batch_norm: Literal["train", "frozen"] = "train"
    """frozen uses the statistics it has; its scale and shift are trained all the same."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(gt=0)
    schedule: Literal["constant", "cosine"] = "cosine"
    hold: float = Field(default=0.0, ge=0, le=1)
    """Share of the steps after which the cosine begins to fall."""
    warmup: int = Field(default=0, ge=0)
    """Steps over which the learning rate rises from 0."""
    weight_decay: float = Field(default=0.05, ge=0)
    decay: Literal["decoupled", "mean-square"] = "decoupled"
    """decoupled is the optimiser's, on kernels; mean-square adds weight_decay × mean(w²) of each tensor,
    biases included, to the loss, as Matterport does."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    clip_norm: float = Field(default=5.0, gt=0)
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay of the moving average of the weights that is validated and shipped; 0 keeps none."""
    regions_per_image: int = Field(default=128, ge=8)
    positive_fraction: float = Field(default=0.33, gt=0, lt=1)
    masks_per_image: int = Field(default=0, ge=0)
    """Positive regions of an image whose masks are learnt, at random; 0 is all. Masks are half of a step's
    work, and a few of them teach as much as many."""
    augmentation: Augmentation = Augmentation()

    @model_validator(mode="after")
    def _has_a_length(self) -> Self:
        if bool(self.steps) == bool(self.epochs):
            raise ValueError("give either steps or epochs, above 0")
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} cannot be cut into {self.accumulate} equal parts")
        return self

    def resolved(self, round_length: int) -> Stage:
        """The same stage with its steps, and those of an epoch, counted.

        Parameters
        ----------
        round_length : crops in one round of the sampler over the training images.
        """
        an_epoch = self.epoch_steps or -(-round_length // self.batch_size)
        steps = self.steps or self.epochs * an_epoch
        return self.model_copy(update={"steps": steps, "epochs": 0, "epoch_steps": an_epoch})

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of a step of this stage, 0-based."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / (self.warmup + 1)
        if self.schedule == "constant":
            return self.learning_rate
        begin = max(self.warmup, self.hold * self.steps)
        done = max(0.0, (step - begin) / max(1, self.steps - begin))
        return self.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)


class Recipe(BaseModel):
    """All that decides a training run, but for the data and the machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    description: str = ""
    seed: int = Field(default=0, ge=0)
    weights: str = "random"
    """Where training starts unless --weights says otherwise: coco, imagenet, random, or any weights."""
    architecture: Architecture = Architecture()
    """The network, where the weights that training starts from do not tell."""
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    workers: int = Field(default=1, ge=0)
    """Processes that prepare crops; any number gives the same crops."""
    cache_gb: float = Field(default=1.0, ge=0)
    """Memory for decoded images, of all workers together, in GB."""
    log_every: int = Field(default=20, ge=1)
    validate_every: int = Field(default=0, ge=0)
    """Steps between validations; 0 validates at every epoch's end."""
    validate_images: int = Field(default=500, ge=0)
    """Validation images that are judged, evenly spread over the set; 0 is all."""
    checkpoint_every: int = Field(default=0, ge=0)
    """Steps between checkpoints; 0 keeps one at every epoch's end."""
    keep_epochs: int | Literal["all"] = 0
    """Of how many epochs, the latest, the weights are kept: checkpoints/epoch-0001.safetensors and so on."""
    stages: tuple[Stage, ...] = Field(min_length=1)

    @property
    def total_steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def locate(self, step: int) -> tuple[int, int]:
        """Stage index and step within it of a global 0-based step."""
        for index, stage in enumerate(self.stages):
            if step < stage.steps:
                return index, step
            step -= stage.steps
        raise IndexError(f"step is {step} beyond the recipe's end")

    def is_due(self, every: int, step: int) -> bool:
        """Whether what happens `every` steps, or with 0 at every epoch's end, comes after so many steps.

        The stages must be resolved.
        """
        return step % every == 0 if every else self.epoch_ended(step) is not None

    def epoch_ended(self, step: int) -> int | None:
        """Number of the epoch, counted from 1 through all stages, that ends after so many steps, if one does.

        The stages must be resolved. What is left of a stage after its last whole epoch counts as one, too.
        """
        index, last = self.locate(step - 1)
        earlier = sum(-(-s.steps // s.epoch_steps) for s in self.stages[:index])
        stage, done = self.stages[index], last + 1
        ended = done % stage.epoch_steps == 0 or (done == stage.steps and self.keep_epochs != 0)
        return earlier + -(-done // stage.epoch_steps) if ended else None


def resolved(recipe: Recipe, train: Dataset) -> Recipe:
    """The recipe with the steps of all stages and of their epochs counted, for these training images."""
    rounds = {sampler: len(round_of(train, sampler)) for sampler in {s.sampler for s in recipe.stages}}
    return recipe.model_copy(update={"stages": tuple(s.resolved(rounds[s.sampler]) for s in recipe.stages)})


def shipped_recipes() -> list[str]:
    """Names of the recipes in the package."""
    return sorted(f.name.removesuffix(".toml") for f in _SHIPPED.iterdir() if f.name.endswith(".toml"))


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a shipped recipe or a TOML file, with ``stage.key=value`` changes.

    ``main.learning_rate=0.001`` changes one stage, ``stages.crop=512`` all of them, and
    ``seed=3`` or ``architecture.backbone=resnet50`` the recipe. Values are read as JSON where
    they parse, else as text.

    Raises
    ------
    UserError
        With every problem at once: unknown names, impossible values, unreadable file.
    """
    shipped = _SHIPPED / f"{name_or_path}.toml"
    source = None if shipped.is_file() else expanded(name_or_path)
    if source is not None and not exists(source):
        raise UserError(
            f"no recipe {name_or_path!r}: give a TOML file or one of {', '.join(shipped_recipes())}"
        )
    text = shipped.read_text("utf-8") if source is None else read_text(source)
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"recipe {name_or_path} is not valid TOML: {str(error)[:120]}") from None
    problems = [p for o in overrides if (p := _override(content, o))]
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        problems += faults(error)
    if problems:
        raise UserError(f"recipe {name_or_path}: " + "; ".join(problems))
    return recipe


def to_toml(recipe: Recipe) -> str:
    """The recipe as TOML that `load_recipe` reads back to an equal value."""
    plain = recipe.model_dump(mode="json")
    stages, architecture = plain.pop("stages"), plain.pop("architecture")
    lines = _pairs(plain) + ["", "[architecture]", *_pairs(architecture)]
    for stage in stages:
        augmentation = stage.pop("augmentation")
        lines += ["", "[[stages]]", *_pairs(stage), "", "[stages.augmentation]", *_pairs(augmentation)]
    return "\n".join(lines) + "\n"


def explained(recipe: Recipe) -> str:
    """The recipe as TOML that can be changed and trained with, every key with what it means."""
    plain = recipe.model_dump(mode="json")
    stages, architecture = plain.pop("stages"), plain.pop("architecture")
    parts = [_told(Recipe, plain), "\n[architecture]\n" + _told(Architecture, architecture)]
    for number, stage in enumerate(stages):
        views = stage.pop("augmentation")
        body, seen = (_told(m, v, told=number == 0) for m, v in ((Stage, stage), (Augmentation, views)))
        parts.append(f"\n[[stages]]\n{body}\n[stages.augmentation]\n{seen}")
    return "".join(parts)


def _told(model: type[BaseModel], values: dict[str, Any], *, told: bool = True) -> str:
    """Lines of TOML, each under a comment with its meaning."""
    lines = []
    for key, value in values.items():
        meaning = meanings(model).get(key, "")
        lines += [*(textwrap.wrap(f"# {meaning}", 100, subsequent_indent="# ") if told and meaning else ())]
        lines += _pairs({key: value})
    return "\n".join(lines) + "\n"


def differences(old: Recipe, new: Recipe) -> list[str]:
    """What changed between two recipes: ``main.steps 100 → 50``."""
    flat = [_flattened(r) for r in (old, new)]
    keys = dict.fromkeys([*flat[0], *flat[1]])
    absent = "nothing"
    return [
        f"{k} {flat[0].get(k, absent)} → {flat[1].get(k, absent)}"
        for k in keys
        if flat[0].get(k, absent) != flat[1].get(k, absent)
    ]


def _flattened(recipe: Recipe) -> dict[str, Any]:
    plain = recipe.model_dump(mode="json")
    stages = {s["name"]: s for s in plain.pop("stages")}
    found: dict[str, Any] = {}

    def visit(values: dict[str, Any], before: str) -> None:
        for key, value in values.items():
            if isinstance(value, dict):
                visit(value, f"{before}{key}.")
            else:
                found[f"{before}{key}"] = value

    visit({**plain, **stages}, "")
    return found


def _pairs(values: dict[str, Any]) -> list[str]:
    # Strings, numbers, booleans and flat lists look the same in JSON and TOML.
    return [f"{key} = {json.dumps(value)}" for key, value in values.items()]


def _override(content: dict[str, Any], text: str) -> str | None:
    """Apply one change in place; the problem as text if it cannot be."""
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        return f"{text!r} (--set): write stage.key=value"
    try:
        parsed = parse_json(value)
    except ValueError:
        parsed = value
    stages = content.get("stages", [])
    by_name = {s.get("name"): s for s in stages if isinstance(s, dict)}
    if keys[0] == "stages" and len(keys) > 1:
        places, keys = list(by_name.values()), keys[1:]
    elif keys[0] in by_name and len(keys) > 1:
        places, keys = [by_name[keys[0]]], keys[1:]
    else:
        places = [content]
    for place in places:
        for key in keys[:-1]:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                return f"{text!r} (--set): {key} is not a table"
        place[keys[-1]] = parsed
    return None
