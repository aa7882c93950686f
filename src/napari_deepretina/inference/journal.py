"""What a folder of results remembers: which images are done, and which files are its own."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field, model_validator

from napari_deepretina.errors import UserError
from napari_deepretina.files import append_text, exists, refuse_inputs, write_text
from napari_deepretina.inference.settings import SegmentSettings
from napari_deepretina.instances import Instances, rle
from napari_deepretina.intake import checked_size, parse_json, read_bytes
from napari_deepretina.model.header import WeightsInfo

NOT_OURS = "was not written by an earlier run here, so it is not replaced: move it, or choose another folder"


def hidden(out: Path) -> Path:
    """Where a folder of results keeps what an interrupted run needs to go on."""
    return out / ".napari-deepretina"


@dataclass(frozen=True)
class Entry:
    """A 2D image with its nuclei: a picture, or one plane of a stack."""

    name: str
    instances: Instances
    file_name: str = ""

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        found = self.instances
        return {
            "name": self.name, "file_name": self.file_name, "shape": list(found.shape),
            "rle": rle.encode(found), "scores": found.scores.tolist(), "classes": found.classes.tolist(),
            "votes": found.votes.tolist(), "ids": found.ids.tolist(),
        }  # fmt: skip

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> Entry:
        """The inverse of `to_json`."""
        height, width = told["shape"]
        found = replace(
            rle.decode(told["rle"], (height, width)),
            scores=np.array(told["scores"], np.float32),
            classes=np.array(told["classes"], np.int32),
            votes=np.array(told["votes"], np.int32),
        )
        if "ids" in told:  # earlier versions did not keep them
            found = replace(found, ids=np.array(told["ids"], np.int64))
        return cls(told["name"], found, told["file_name"])


@dataclass(frozen=True)
class Record:
    """What is kept of an image that is done: a line of the journal.

    Attributes
    ----------
    name : of the image.
    entries : its 2D images.
    features : columns of its table of nuclei.
    summary : its row of the summary.
    told : what run.json says of it.
    """

    name: str
    entries: list[Entry]
    features: dict[str, list[Any]]
    summary: dict[str, Any]
    told: dict[str, Any]

    def line(self) -> str:
        """As the journal holds it."""
        content = {**self.__dict__, "entries": [e.to_json() for e in self.entries]}
        return json.dumps(content)

    @classmethod
    def from_line(cls, line: str) -> Record:
        """The inverse of `line`; ValueError if the line is torn, or is none of ours."""
        told = _Line.model_validate_json(line)
        entries = [Entry.from_json(e.model_dump(exclude_none=True)) for e in told.entries]
        return cls(told.name, entries, told.features, told.summary, told.told)


Whole = Annotated[int, Field(ge=0, lt=2**31)]
"""What 32 bits hold."""


class _EntryLine(BaseModel):
    """An `Entry`, as a line of the journal has it."""

    name: str
    file_name: str
    shape: tuple[int, int]
    rle: list[str]
    scores: list[float]
    classes: list[Whole]
    votes: list[Whole]
    ids: list[Whole] | None = None

    @model_validator(mode="after")
    def _fits(self) -> _EntryLine:
        lengths = {len(x) for x in (self.rle, self.scores, self.classes, self.votes, self.ids or self.rle)}
        if len(lengths) > 1:
            raise ValueError("its objects have different numbers of values")
        checked_size(self.shape, self.name)
        return self


class _Line(BaseModel):
    """A `Record`, as the journal has it."""

    name: str
    entries: list[_EntryLine]
    features: dict[str, list[Any]]
    summary: dict[str, Any]
    told: dict[str, Any]


class Journal:
    """Images that are done, one a line, each written when its files are there."""

    def __init__(self, out: Path, key: str) -> None:
        self._path = hidden(out) / "done.jsonl"
        self._key = key

    def read(self) -> dict[str, Record]:
        """Records by name; UserError if they were made with other settings, or it cannot be read."""
        if not self._path.exists():
            return {}
        first, *lines = self._lines() or [""]
        if first != self._key:
            raise UserError(
                f"{self._path.parent.parent} holds results of other settings or weights; choose another "
                "folder, or do all anew (--overwrite)"
            )
        return _records(lines)

    def stored(self) -> dict[str, Record]:
        """Records by name, whichever settings they were made with; UserError if it cannot be read."""
        if not self._path.exists():
            return {}
        return _records(self._lines()[1:])

    def _lines(self) -> list[str]:
        return read_bytes(self._path).decode("utf-8", errors="replace").splitlines()

    def is_begun(self) -> bool:
        """Whether there is a journal."""
        return self._path.exists()

    def begin(self, kept: Iterable[Record] = ()) -> None:
        """Forget all but some records."""
        write_text(self._path, self._key + "\n")
        for record in kept:
            self.add(record)

    def add(self, record: Record) -> None:
        """Keep one more; UserError if it cannot be written."""
        append_text(self._path, f"\n{record.line()}\n")


def _records(lines: Iterable[str]) -> dict[str, Record]:
    """The last whole record of each image."""
    records = {}
    for line in lines:
        try:
            record = Record.from_line(line)
        except ValueError:
            continue  # a crash tore it
        records[record.name] = record
    return records


def reviewed(records: Mapping[str, Record]) -> dict[str, Record]:
    """Those that a person worked on."""
    worked_on = {}
    for name, record in records.items():
        review = record.told.get("review") or {}
        if review.get("done") or review.get("changed"):
            worked_on[name] = record
    return worked_on


def key_of(sha256: str, info: WeightsInfo, settings: SegmentSettings) -> str:
    """Equal for runs that give the same results, whatever device and precision they run in.

    Parameters
    ----------
    sha256, info : of the weights.
    """
    decides = settings.model_dump(mode="json", exclude={"device", "precision", "weights"})
    decides |= settings.postprocessing(info).model_dump(mode="json")
    text = json.dumps([sha256, decides], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Ledger:
    """The files that runs into a folder wrote: they may be replaced there, and no others.

    A file is entered before it is written, so that one which a crash left is known as well.
    """

    def __init__(self, out: Path) -> None:
        self._path = hidden(out) / "files.jsonl"
        self._out = out
        self._known: set[str] = set()
        if self._path.exists():
            for line in read_bytes(self._path).decode("utf-8", errors="replace").splitlines():
                try:
                    self._known.add(str(parse_json(line)))
                except ValueError:
                    continue  # a crash tore it

    def foreign(self, paths: Iterable[Path]) -> list[Path]:
        """Those that are there and that no run wrote."""
        return [p for p in paths if exists(p) and self._key(p) not in self._known]

    def claim(self, paths: Sequence[Path]) -> None:
        """Enter files that are about to be written.

        Raises
        ------
        UserError
            If one is there that no run wrote, or that is an input.
        """
        if other := self.foreign(paths):
            raise UserError(f"{other[0]} is there already and {NOT_OURS}")
        for path in paths:
            refuse_inputs(path)
        new = [k for k in map(self._key, paths) if k not in self._known]
        if new:
            append_text(self._path, "".join(f"\n{json.dumps(k)}\n" for k in new))
            self._known.update(new)

    def _key(self, path: Path) -> str:
        """A place as it will be found after the folder was moved, if it lies in it."""
        whole = Path(os.path.realpath(path.parent)) / path.name
        out = Path(os.path.realpath(self._out))
        return whole.relative_to(out).as_posix() if whole.is_relative_to(out) else str(whole)
