"""Which images are for training and which are kept for validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_deepretina.data.files import Tree
from napari_deepretina.errors import UserError
from napari_deepretina.intake import parse_json, read_json


@dataclass(frozen=True)
class Split:
    """Names of the two parts, and where they were found."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    source: str

    def part(self, name: str) -> tuple[str, ...]:
        """``train``, ``val`` or ``all``."""
        parts = {"train": self.train, "val": self.val, "all": self.train + self.val}
        if name not in parts:
            raise UserError(f"no part {name!r} in the split; choose train, val or all")
        return parts[name]


def read_split(path: str | Path) -> Split:
    """A JSON file with lists ``train`` and ``val``; UserError if it is anything else."""
    return _checked(read_json(path, "a readable split file"), str(path))


def find_split(tree: Tree) -> Split | None:
    """The split inside the data (``split.json``) or beside it (``<start of its name>_split.json``)."""
    inside = [n for n in tree.names() if n.rsplit("/", 1)[-1] == "split.json"]
    if inside:
        source = f"{tree.path}:{inside[0]}"
        try:
            return _checked(parse_json(tree.read(inside[0])), source)
        except ValueError as error:
            raise UserError(f"{source} is not a readable split file: {error}") from None
    for beside in sorted(tree.path.parent.glob("*_split.json")):
        if tree.path.name.startswith(beside.name.removesuffix("_split.json")):
            return read_split(beside)
    return None


def random_split(names: Sequence[str], *, fraction: float = 0.1, seed: int = 0) -> Split:
    """Keep a share of the names for validation, at least one; the same seed, the same share."""
    if not names:
        raise UserError("there are no annotated images to train on")
    if len(names) == 1:
        return Split(tuple(names), tuple(names), "one image only: validated on the one that is trained on")
    order = np.random.default_rng(seed).permutation(len(names))
    count = max(1, round(fraction * len(names)))
    val = {names[i] for i in order[:count]}
    return Split(
        tuple(n for n in names if n not in val),
        tuple(n for n in names if n in val),
        f"random, {fraction:g} held out, seed {seed}",
    )


def _checked(content: Any, source: str) -> Split:
    lists: list[Any] = [content.get(k) if isinstance(content, dict) else None for k in ("train", "val")]
    if not all(isinstance(x, list) and all(isinstance(n, str) for n in x) for x in lists):
        raise UserError(f"{source}: a split file holds two lists of names, 'train' and 'val'")
    train, val = tuple(lists[0]), tuple(lists[1])
    if shared := set(train) & set(val):
        raise UserError(f"{source}: {len(shared)} names are in both parts, e.g. {min(shared)!r}")
    return Split(train, val, source)
