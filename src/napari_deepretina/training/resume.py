"""Going on with a run: what its folder remembers, and what is different now."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from napari_deepretina.data.sample import Dataset
from napari_deepretina.errors import UserError
from napari_deepretina.intake import believed
from napari_deepretina.model.header import WeightsInfo
from napari_deepretina.model.network import Network, build, bytes_of
from napari_deepretina.training.asked import RECORD, Asked, read_record
from napari_deepretina.training.checkpoint import load_checkpoint
from napari_deepretina.training.recipe import Recipe, differences, load_recipe, resolved


def asked_again(folder: Path, given: dict[str, Any]) -> Asked:
    """What a run was asked for, with what is given now in its place; the recipe is the folder's own.

    Parameters
    ----------
    given : fields of `Asked` that a person named; empty ones do not count.
    """
    now = {key: value for key, value in given.items() if value}
    if {"recipe", "data"} <= now.keys():
        return Asked.model_validate(now)
    recorded, _ = read_record(folder)
    kept = recorded.model_dump()
    if "recipe" not in now:
        kept |= {"recipe": str(folder / "recipe.toml"), "overrides": ()}
    return Asked.model_validate({**kept, **now})


def digest(dataset: Dataset) -> dict[str, Any]:
    """How many images a data set has, and a short hash of their names."""
    names = "\n".join(dataset.names).encode("utf-8", "surrogateescape")
    return {"images": len(dataset), "names": hashlib.sha256(names).hexdigest()[:16]}


def recorded_start(folder: Path) -> tuple[Network, WeightsInfo] | None:
    """An unfilled network as the run's, with its description; None where the folder does not tell."""
    try:
        info = WeightsInfo.model_validate(read_record(folder)[1]["info"])
        size = bytes_of(info.architecture)
        believed(size, size, str(folder / RECORD))
        return build(info.architecture), info
    except (UserError, KeyError, ValidationError):
        return None


def changes_since(folder: Path, recipe: Recipe, asked: Asked, parts: tuple[Dataset, Dataset]) -> list[str]:
    """Lines that say what is different from the run as it was; none where nothing is."""
    try:
        before = load_recipe(str(folder / "recipe.toml"))
    except UserError:
        return []
    now = resolved(recipe, parts[0])
    kept = ("name", "description", "weights")
    changed = differences(before, now.model_copy(update={k: getattr(before, k) for k in kept}))
    try:
        _, record = read_record(folder)
    except UserError:
        record = {}
    for what, dataset in zip(("train", "val"), parts, strict=True):
        was, is_now = record.get(what), digest(dataset)
        if isinstance(was, dict) and was != is_now:
            changed.append(f"{what}: {was.get('images')} images → {is_now['images']} (other data)")
    if asked.weights and asked.weights != record.get("asked", {}).get("weights"):
        changed.append(f"weights {asked.weights} (not used: the checkpoint's are)")
    notes = [f"resuming with changes: {'; '.join(changed)}"] if changed else []
    done = int(load_checkpoint(folder / "checkpoints" / "last.ckpt").get("step", 0))
    if done >= now.total_steps:
        notes.append(
            f"the run has done {done} steps, and the recipe has {now.total_steps}: nothing is left to do"
        )
    return notes
