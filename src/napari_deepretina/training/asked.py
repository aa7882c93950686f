"""What a person asks of a run, as the run's folder remembers it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from napari_deepretina.errors import UserError
from napari_deepretina.files import exists, expanded, write_text
from napari_deepretina.intake import parse_json, read_bytes

RECORD = "run.json"
NOTHING = "none"
"""Stands for an empty validation set: everything is trained on."""


class Asked(BaseModel):
    """A run, as it was asked for; paths are kept so that they are good from any folder.

    Attributes
    ----------
    recipe : name of a recipe in the package, or a file.
    data, val : data sets to train on and to validate on; without `val`, a part of `data` is held out, and
        ``none`` holds out nothing.
    weights : where to start; None as the recipe says.
    split : file with lists of names.
    overrides : ``STAGE.KEY=VALUE``.
    incomplete : those of `data` in which some nuclei are unlabelled.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    recipe: str
    data: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    weights: str | None = None
    split: str | None = None
    overrides: tuple[str, ...] = ()
    incomplete: tuple[str, ...] = ()

    def lasting(self) -> Self:
        """The same with paths that are good from any folder."""
        return self.model_copy(
            update={
                "data": tuple(map(_lasting, self.data)),
                "val": tuple(map(_lasting, self.val)),
                "incomplete": tuple(map(_lasting, self.incomplete)),
                "weights": self.weights and _lasting(self.weights),
                "split": self.split and _lasting(self.split),
            }
        )

    def write(self, folder: Path, **told: Any) -> None:
        """Remember it in a run's folder, with what else is told of the run."""
        import json

        write_text(folder / RECORD, json.dumps({"asked": self.model_dump(), **told}, indent=2))


def read_record(folder: Path) -> tuple[Asked, dict[str, Any]]:
    """What `Asked.write` left in a run's folder.

    Raises
    ------
    UserError
        If there is none, or it is damaged.
    """
    path = folder / RECORD
    if not path.exists():
        raise UserError(
            f"{folder} does not say what it was started with: give recipe and data as well (--data)"
            if (folder / "recipe.toml").exists()
            else f"{folder} is not the folder of a run"
        )
    try:
        content = parse_json(read_bytes(path))
        return Asked.model_validate(content["asked"]), content
    except (ValueError, KeyError, TypeError, ValidationError):
        raise UserError(f"{path} is damaged: give recipe and data as well (--data)") from None


def weighted(text: str) -> tuple[str, int]:
    """Path and weight of ``PATH@3``, which is shown three times as often; a file of that very name wins."""
    match = re.fullmatch(r"(.+)@([1-9]\d*)", text)
    return (text, 1) if match is None or exists(expanded(text)) else (match[1], int(match[2]))


def _lasting(text: str) -> str:
    """An existing path made absolute; names, and weights of sets (``PATH@3``), stay."""
    path, weight = weighted(text)
    if path != text:
        return f"{_lasting(path)}@{weight}"
    place = expanded(text)
    return str(place.absolute()) if place.exists() else text
