"""Documents on disk: one file, and while a person works, every step added to it as it happens.

A file is a line that names the format, then frames. A frame is the length and the CRC-32 of what follows, and
an npz archive. The first frame holds the whole document, each later one a step or taking one back. A file
that was cut off in the midst of a frame is read up to the last whole one.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel

from napari_deepretina.data.regions import Region
from napari_deepretina.document.changes import Change, Index
from napari_deepretina.document.document import Document
from napari_deepretina.document.planes import TunedPlane
from napari_deepretina.document.records import Nucleus
from napari_deepretina.errors import UserError
from napari_deepretina.files import append_bytes, written_whole
from napari_deepretina.instances import RawInstances
from napari_deepretina.intake import first_fault, parse_json, read_arrays, read_bytes
from napari_deepretina.postprocess.settings import PostprocessSettings

SUFFIX = ".nuclei"
MAGIC = b"napari-deepretina nuclei 1\n"
_HEAD = struct.Struct("<QI")
_RAW = ("boxes", "scores", "masks", "classes", "views", "tiles")
_RAW_FACTS = ("shape", "fingerprint", "view_count", "thinned", "fading")
Arrays = dict[str, NDArray[Any]]


def _possible(nuclei: dict[int, Nucleus]) -> dict[int, Nucleus]:
    """Records whose whole numbers 32 bits can hold; ValueError if one's cannot."""
    for label, nucleus in nuclei.items():
        if not all(0 <= n < 2**31 for n in (label, nucleus.votes, nucleus.class_id)):
            raise ValueError(f"nucleus {label} has numbers that no nucleus has")
    return nuclei


class _RawFacts(BaseModel):
    """Of the detections of a plane, what is no array."""

    shape: tuple[int, int]
    fingerprint: str
    view_count: int
    thinned: float
    fading: bool


class _PlaneFacts(BaseModel):
    index: Index
    settings: PostprocessSettings
    raw: _RawFacts


class _Facts(BaseModel):
    """Of a document, what is no array."""

    told: dict[str, Any]
    classes: tuple[str, ...]
    planes: list[_PlaneFacts]
    nuclei: Annotated[dict[int, Nucleus], AfterValidator(_possible)]
    last_id: int
    settings: PostprocessSettings
    link: float
    regions: list[Region] = []


class _SettingsStep(BaseModel):
    index: Index
    pair: tuple[PostprocessSettings, PostprocessSettings]


class _StepFacts(BaseModel):
    """Of a step, what is no array."""

    what: str
    nuclei: dict[int, tuple[Nucleus | None, Nucleus | None]]
    settings: list[_SettingsStep]
    last_id: int


def save(document: Document, path: Path, told: Mapping[str, Any] | None = None) -> None:
    """Write a document as it is now, without its history, as one file.

    Parameters
    ----------
    told : more to keep with it, such as the image's name; must be fit for JSON.

    Raises
    ------
    UserError
        If the file cannot be written.
    """
    with written_whole(path) as part:
        part.write_bytes(MAGIC + _frame(_whole(document, told or {})))


def load(path: Path) -> tuple[Document, dict[str, Any]]:
    """A document from its file, with the steps that are in it, and what else was kept.

    Raises
    ------
    UserError
        If it cannot be read, or is no document.
    """
    content = read_bytes(path)
    if not content.startswith(MAGIC):
        raise UserError(f"{path} is no file of nuclei that this version can read")
    frames = _frames(content[len(MAGIC) :])
    try:
        first = next(frames, None)
        if first is None:
            raise UserError(f"{path} was cut off before its first document was whole")
        document, told = _document(first)
        for frame in frames:
            _replay(document, frame)
    except UserError:
        raise
    except Exception as error:
        # The arrays of a frame need not fit each other, whatever its checksum says.
        raise UserError(f"{path} is damaged: {first_fault(error)}") from None
    return document, told


class Autosave:
    """Keeps a document's file up to date, step by step, off the calling thread.

    Parameters
    ----------
    path : is written whole at the first step, and added to from then on.
    told : as for `save`.
    """

    def __init__(self, document: Document, path: Path, told: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self._document, self._told = document, dict(told or {})
        self._written: list[Change] = []
        self._begun = False
        self._thread = ThreadPoolExecutor(1, "autosave")

    def write(self) -> Future[None] | None:
        """Write what happened since the last call; None if nothing did.

        The future's result is an error of the disk, if there was one.
        """
        self._document.history.rest()
        done = self._document.history.done
        while self._written and done and self._written[0] is not done[0] and done[0] in self._written:
            self._written.pop(0)  # the history forgot it
        same = 0
        while same < min(len(done), len(self._written)) and done[same] is self._written[same]:
            same += 1
        back, new = len(self._written) - same, done[same:]
        if not back and not new:
            return None
        self._written = list(done)
        if not self._begun:
            return self.write_all()
        frames = [_step(self._document, change) for change in new]
        return self._thread.submit(self._append, back, frames)

    def write_all(self) -> Future[None]:
        """Write the document with its steps, whether or not anything happened."""
        self._document.history.rest()
        done = self._document.history.done
        self._written, self._begun = list(done), True
        start = _whole(self._document, self._told, done)
        return self._thread.submit(self._write_whole, [start, *(_step(self._document, c) for c in done)])

    def close(self) -> None:
        """Wait until everything is on disk."""
        self.write()
        self._thread.shutdown()

    def _write_whole(self, frames: list[Arrays]) -> None:
        with self._whole_again_after_failure(), written_whole(self.path) as part:
            part.write_bytes(MAGIC + b"".join(map(_frame, frames)))

    def _append(self, back: int, frames: list[Arrays]) -> None:
        taken_back: list[Arrays] = [{"meta": _text({"kind": "back"})}] * back
        with self._whole_again_after_failure():
            append_bytes(self.path, b"".join(map(_frame, taken_back + frames)))

    @contextmanager
    def _whole_again_after_failure(self) -> Iterator[None]:
        """What could not be written is written with all the rest next time."""
        try:
            yield
        except UserError:
            self._begun = False
            raise


def _frame(arrays: Arrays) -> bytes:
    packed = io.BytesIO()
    named: dict[str, Any] = dict(arrays)
    np.savez_compressed(packed, **named)
    content = packed.getvalue()
    return _HEAD.pack(len(content), zlib.crc32(content)) + content


def _frames(content: bytes) -> Iterator[Arrays]:
    """Whole frames, up to the first that is not."""
    place = 0
    while place + _HEAD.size <= len(content):
        length, crc = _HEAD.unpack_from(content, place)
        place += _HEAD.size
        packed = content[place : place + length]
        if not length or len(packed) < length or zlib.crc32(packed) != crc:
            return
        yield read_arrays(io.BytesIO(packed), length, "a step in it")
        place += length


def _text(content: Mapping[str, Any]) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps(content).encode(), np.uint8)


def _meta(arrays: Arrays) -> dict[str, Any]:
    told: dict[str, Any] = dict(parse_json(arrays["meta"].tobytes()))
    return told


def _whole(document: Document, told: Mapping[str, Any], steps: Sequence[Change] = ()) -> Arrays:
    """A document as it was before its last `steps`, as arrays; those that change later are copied."""
    labels, nuclei = document.labels.copy(), dict(document.nuclei)
    settings = {index: document.settings_of(index) for index in document.planes}
    for step in reversed(steps):
        labels.reshape(-1)[step.where] = step.before
        nuclei |= {label: before for label, (before, _) in step.nuclei.items() if before is not None}
        for label in [label for label, (before, _) in step.nuclei.items() if before is None]:
            nuclei.pop(label, None)
        settings |= {index: before for index, (before, _) in step.settings.items()}
    arrays: Arrays = {"labels": labels}
    planes = []
    for k, (index, plane) in enumerate(document.planes.items()):
        arrays |= {f"{k}_{name}": getattr(plane.raw, name) for name in _RAW}
        arrays[f"{k}_id_of"] = plane.id_of.copy()
        facts = {name: getattr(plane.raw, name) for name in _RAW_FACTS}
        planes.append({"index": index, "settings": settings[index].model_dump(), "raw": facts})
    arrays["meta"] = _text(
        {
            "told": dict(told),
            "classes": document.classes,
            "planes": planes,
            "nuclei": {str(label): list(record) for label, record in nuclei.items()},
            "last_id": document.last_id,
            "settings": document.settings.model_dump(),
            "link": document.link,
            "regions": [region.model_dump() for region in document.regions],
        }
    )
    return arrays


def _document(arrays: Arrays) -> tuple[Document, dict[str, Any]]:
    facts, labels = _Facts.model_validate(_meta(arrays)), arrays["labels"]
    if labels.dtype.kind not in "iu" or labels.ndim < 2 or labels.min(initial=0) < 0:
        raise ValueError("its labels are no label image")
    planes: dict[Index, TunedPlane] = {}
    for k, known in enumerate(facts.planes):
        given: dict[str, Any] = {name: arrays[f"{k}_{name}"] for name in _RAW} | known.raw.model_dump()
        raw, id_of = RawInstances(**given), arrays[f"{k}_id_of"]
        here = labels[known.index] if len(known.index) == labels.ndim - 2 else labels[:0]
        if not raw.is_sound or raw.shape != here.shape or id_of.shape != (len(raw),):
            raise ValueError(f"its detections do not fit the plane {known.index}")
        led = np.flatnonzero(id_of)
        planes[known.index] = TunedPlane(raw, led, id_of[led])
    document = Document(
        labels,
        facts.settings,
        planes,
        settings_of={plane.index: plane.settings for plane in facts.planes},
        classes=facts.classes,
        link=facts.link,
        regions=facts.regions,
        nuclei=facts.nuclei,
    )
    document.last_id = max(document.last_id, facts.last_id)
    return document, facts.told


def _step(document: Document, change: Change) -> Arrays:
    """A change as arrays, with the ids that it gave."""
    arrays: Arrays = {"where": change.where, "before": change.before, "after": change.after}
    settings = []
    for k, (index, pair) in enumerate(change.settings.items()):
        arrays[f"{k}_id_of"] = document.planes[index].id_of.copy()
        settings.append({"index": index, "pair": [s.model_dump() for s in pair]})
    nuclei = {str(i): [None if n is None else list(n) for n in pair] for i, pair in change.nuclei.items()}
    told = {"kind": "step", "what": change.what, "nuclei": nuclei, "settings": settings}
    arrays["meta"] = _text(told | {"last_id": document.last_id})
    return arrays


def _replay(document: Document, arrays: Arrays) -> None:
    meta = _meta(arrays)
    if meta["kind"] == "back":
        document.undo()
        return
    facts = _StepFacts.model_validate(meta)
    where, before, after = (arrays[name] for name in ("where", "before", "after"))
    if not len(where) == len(before) == len(after) or (np.diff(where, prepend=-1) <= 0).any():
        raise ValueError("a step in it does not fit its labels")
    for k, known in enumerate(facts.settings):
        document.planes[known.index].id_of[:] = arrays[f"{k}_id_of"]
    settings = {known.index: known.pair for known in facts.settings}
    document.last_id = max(document.last_id, facts.last_id)
    document.repeat(Change(facts.what, where, before, after, facts.nuclei, settings))
