"""A folder's images one after the other, each with its nuclei as a person corrected them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_deepretina.data.picture import Picture
from napari_deepretina.document import Document, store
from napari_deepretina.document.document import REVIEWED
from napari_deepretina.document.making import of_result
from napari_deepretina.document.measure import channels_of
from napari_deepretina.errors import UserError
from napari_deepretina.files import protected, write_text
from napari_deepretina.inference.asked import RunRecord, for_image
from napari_deepretina.inference.journal import Journal, Ledger, Record, hidden, key_of
from napari_deepretina.inference.results import RUN, Outcome, Places, write_joint, write_one
from napari_deepretina.inference.settings import SegmentSettings
from napari_deepretina.inference.sources import Source
from napari_deepretina.instances import Instances
from napari_deepretina.intake import read_json, typed
from napari_deepretina.lock import sole_use
from napari_deepretina.model.weights import find, identity_of, read_info
from napari_deepretina.postprocess import PostprocessSettings


@dataclass(frozen=True)
class Opened:
    """An image of the folder.

    Attributes
    ----------
    document : its nuclei; None if it was not segmented yet.
    """

    source: Source
    picture: Picture
    document: Document | None


class FolderReview:
    """Images of a folder, and where their results lie.

    Results are those of `segment_files` into the same place: what it found is what a person corrects, and
    what a person corrected it leaves alone.

    Parameters
    ----------
    settings : that images which are not done yet are segmented with.
    """

    def __init__(self, sources: list[Source], places: Places, settings: SegmentSettings) -> None:
        self.sources, self.places, self.settings = sources, places, settings
        weights = find(settings.weights)
        self._info = read_info(weights)
        self._journal = Journal(places.out, key_of(identity_of(weights), self._info, settings))
        self._records = self._journal.stored()

    def done(self) -> int:
        """Images that a person marked as reviewed."""
        return sum(self.is_done(source.name) for source in self.sources)

    def is_done(self, name: str) -> bool:
        """Whether a person marked this image as reviewed."""
        record = self._records.get(name)
        return bool(record is not None and (record.told.get("review") or {}).get("done"))

    def first(self) -> int:
        """Number of the first image that is not reviewed yet; 0 if all are."""
        left = (k for k, source in enumerate(self.sources) if not self.is_done(source.name))
        return next(left, 0)

    def open(self, number: int) -> Opened:
        """Read an image, and its nuclei as they were left.

        Raises
        ------
        UserError
            If the image or what was kept of it cannot be read.
        """
        source = self.sources[number]
        picture = source.read()
        kept, record = self._kept(source.name), self._records.get(source.name)
        if kept.exists() and record is not None and record.told.get("review"):  # no later run did it anew
            return Opened(source, picture, store.load(kept)[0])
        return Opened(source, picture, _document_of(record, picture, self._info.architecture.classes))

    def keep(self, opened: Opened, document: Document, *, done: bool | None = None) -> None:
        """Write an image's results as the document has them.

        Parameters
        ----------
        done : whether the image is reviewed; by default as it was.

        Raises
        ------
        UserError
            If a file cannot be written, or one that no run wrote stands in its place.
        """
        source, picture = opened.source, opened.picture
        over = self.is_done(source.name) if done is None else done
        before = self._records.get(source.name)
        new = document.is_changed() or bool(document.history.done)
        same = document is opened.document and not document.history.done
        if before is not None and same and over == self.is_done(source.name):
            return  # it was only looked at
        changed = new or bool(before is not None and (before.told.get("review") or {}).get("changed"))
        with protected(*(s.path for s in self.sources)), sole_use(self.places.hidden, of=self.places.out):
            ledger = Ledger(self.places.out)
            ledger.claim([*self.places.joint(), *self.places.always()])
            store.save(document, self._kept(source.name), {"name": source.name})
            settings = for_image(
                self.settings, names=picture.channels, channels=picture.channel_count, image=source.name
            )
            outcome = _outcome_of(document, picture, settings.channel, done=over)
            outcome.told["review"] |= {"done": over, "changed": changed}
            record, _ = write_one(source, picture, outcome, self.places, ledger)
            if not self._journal.is_begun():
                self._journal.begin()
            self._journal.add(record)
            self._records[source.name] = record
            self._write_joint()

    def _write_joint(self) -> None:
        """Files of all images, and what run.json says of each."""
        order = {s.name: k for k, s in enumerate(self.sources)}
        known = sorted((r for n, r in self._records.items() if n in order), key=lambda r: order[r.name])
        write_joint(known, self.places, self._info.architecture.classes)
        path = self.places.out / RUN
        try:
            run = typed(RunRecord, read_json(path), str(path)).model_dump()
        except UserError:
            run = {"settings": self.settings.model_dump(mode="json")}
        write_text(path, json.dumps(run | {"images": {r.name: r.told for r in known}}, indent=2))

    def _kept(self, name: str) -> Path:
        return hidden(self.places.out) / "review" / f"{name}{store.SUFFIX}"


def _document_of(record: Record | None, picture: Picture, classes: Any) -> Document | None:
    """The nuclei that a run wrote, as a document; they cannot be tuned, for only masks were kept."""
    shape = (*picture.extent, *picture.height_width)
    if record is None or not record.entries or record.entries[0].instances.shape != shape[-2:]:
        return None
    labels = np.zeros(shape, np.int32)
    places = [()] if len(shape) == 2 else list(np.ndindex(shape[:-2]))
    named = {record.name + "".join(f"_{i:04}" for i in index): index for index in places}
    made: dict[tuple[int, ...], Any] = {}
    for entry in record.entries:
        index = named.get(entry.name)
        if index is None:
            return None
        labels[index] = entry.instances.to_labels()
        made[index] = (None, entry.instances, entry.instances.ids)
    return of_result(labels, made, PostprocessSettings(), classes)


def _outcome_of(document: Document, picture: Picture, channel: int | str | None, *, done: bool) -> Outcome:
    """What is written of a document."""
    labels = document.labels
    indices = [()] if labels.ndim == 2 else list(np.ndindex(labels.shape[:-2]))
    parts = [channels_of(picture.plane(index)) for index in indices]
    if labels.ndim == 2:
        channels = parts[0]
    else:
        channels = {
            name: np.stack([np.asarray(part[name]) for part in parts]).reshape(labels.shape)
            for name in parts[0]
        }
    table = document.table(channels, pixel_size=picture.pixel_size)
    planes = [(index, _instances(document, labels[index])) for index in indices]
    axes = "".join(picture.axes[i] for i in picture.plane_axes) + "YX"
    looked_at = sum(document.nuclei[i].state in REVIEWED for i in document.present.tolist())
    count = len(document.present)
    told = {"nuclei": count, "review": {"nuclei": looked_at, "of": count}}
    return Outcome(labels, axes, planes, channel, document.classes, table, told, (looked_at, done))


def _instances(document: Document, labels: Any) -> Instances:
    """Nuclei of one plane with their scores, NaN where the network gave none."""
    found = Instances.from_labels(labels)
    records = [document.nuclei[int(i)] for i in found.ids]
    return replace(
        found,
        scores=np.array([np.nan if r.score is None else r.score for r in records], np.float32),
        votes=np.array([r.votes for r in records], np.int32),
        classes=np.array([r.class_id for r in records], np.int32),
    )
