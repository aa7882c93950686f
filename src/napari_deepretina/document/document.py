"""One truth about the nuclei of a result: labels, records, settings, and every step that led to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.data.regions import Region, with_regions
from napari_deepretina.document.changes import Change, Index, joined, numbered
from napari_deepretina.document.history import History
from napari_deepretina.document.measure import Columns, measure
from napari_deepretina.document.planes import TunedPlane, beside, laid_over
from napari_deepretina.document.records import Nucleus, better, known_columns, records_of
from napari_deepretina.errors import UserError
from napari_deepretina.instances import Instances, editing
from napari_deepretina.instances.labels import room_for, sizes_of
from napari_deepretina.postprocess.settings import PostprocessSettings

HIGHEST = 2**31 - 2**20
"""New ids stay below, so that they never run out of int32."""
_ANYONES = 1_000_000
"""An id that a person paints with may lie so far above all others; a higher one is replaced by a new one."""
REVIEWED = ("accepted", "edited", "drawn")
"""States of nuclei that a person has looked at."""
Listener = Callable[[Change], None]


class Document:
    """The nuclei of one result, of a single image or of a stack.

    It alone decides ids, states and numbers; windows, tables and files read it. Everything that changes it is
    a step that can be undone: acceptances, edits, painted strokes and moved sliders alike.

    - An id is given once, and never again to another nucleus.
    - Nuclei that a person accepted, edited, drew or deleted stay as they are when settings change.

    Parameters
    ----------
    labels : (…, H, W) int32, the labels as they were made; the document keeps a copy.
    settings : of post-processing that made them.
    planes : raw detections of each plane; those without cannot be tuned.
    classes : names of classes 1…C.
    nuclei : records of the ids in `labels`; those that have none were drawn by a person.
    settings_of : of planes that were made with other settings.
    link : IoU from which on nuclei of neighbouring planes are one object; 0 for never.
    regions : that nuclei were looked for in; () for the whole image.

    Attributes
    ----------
    labels : (…, H, W) int32, not to be written to.
    nuclei : record of each id, deleted ones included.
    chosen : id of the nucleus that is looked at, 0 for none.
    last_id : the highest id that was ever given.
    settings : those asked for last, for whichever plane.
    """

    def __init__(
        self,
        labels: NDArray[np.integer],
        settings: PostprocessSettings,
        planes: Mapping[Index, TunedPlane],
        *,
        classes: Sequence[str] = ("nucleus",),
        nuclei: Mapping[int, Nucleus] | None = None,
        settings_of: Mapping[Index, PostprocessSettings] | None = None,
        link: float = 0,
        regions: Sequence[Region] = (),
    ) -> None:
        self.labels = room_for(labels.shape)
        self.labels[...] = labels
        self._flat = self.labels.reshape(-1)
        self.planes = dict(planes)
        self.classes = tuple(classes)
        self.chosen = 0
        self.listeners: list[Listener] = []
        self.history = History()
        self.settings, self.link, self.regions = settings, link, tuple(regions)
        self._settings = dict.fromkeys(self.planes, settings) | dict(settings_of or {})
        self._sizes = _pixels_of(self.labels)
        drawn = Nucleus("drawn", "person")
        self.nuclei = dict.fromkeys(self._sizes, drawn) | dict(nuclei or {})
        of_planes = [int(plane.id_of.max(initial=0)) for plane in self.planes.values()]
        self.last_id = max([0, *(i for i in self.nuclei if i <= HIGHEST), *of_planes])

    # ---- what is known ----

    @property
    def present(self) -> NDArray[np.int64]:
        """Ids of the nuclei that have pixels, rising."""
        return np.array(sorted(label for label, size in self._sizes.items() if size > 0), np.int64)

    @property
    def view_count(self) -> int:
        """Views that the image was looked at in."""
        return max((plane.raw.view_count for plane in self.planes.values()), default=1)

    def settings_of(self, index: Index = ()) -> PostprocessSettings:
        """Those of post-processing that a plane's nuclei are made with."""
        return self._settings[self._tunable(index)]

    def new_id(self) -> int:
        """An id that no nucleus has, had, or will be given otherwise."""
        self.last_id += 1
        return self.last_id

    def is_present(self, label: int) -> bool:
        """Whether a nucleus has pixels."""
        return label > 0 and self._sizes[label] > 0

    def area(self, label: int) -> int:
        """Pixels of a nucleus, in all planes."""
        return self._sizes[label]

    def is_changed(self) -> bool:
        """Whether a person accepted, edited, drew or deleted anything that is not undone."""
        return any(n.state != "found" or n.source != "network" for n in self.nuclei.values())

    def reviewed(self) -> tuple[int, int]:
        """Nuclei that a person has looked at, and all."""
        present = self.present.tolist()
        return sum(self.nuclei[i].state in REVIEWED for i in present), len(present)

    def known(self) -> Columns:
        """What is known without measuring, one row a nucleus, ids rising.

        ``index``, ``state``, ``source``, ``score`` (NaN where the network gave none), ``votes``, ``class``
        (name) and ``area`` (pixels).
        """
        return known_columns(self.present, self.nuclei, self._sizes, self.classes)

    def table(
        self,
        channels: Mapping[str, NDArray[Any]] | None = None,
        *,
        pixel_size: tuple[float, float] | None = None,
        unit: str = "µm",
    ) -> Columns:
        """The whole table: `known`, then the measurements; see `measure` for parameters and columns."""
        measured = measure(self.labels, channels, pixel_size=pixel_size, unit=unit)
        return with_regions(self.known() | measured, self.regions)

    # ---- what a person does ----

    def choose(self, label: int) -> None:
        """Make a nucleus the one that is looked at; 0, or one without pixels, chooses none."""
        self.chosen = label if self.is_present(label) else 0

    def accept(self, label: int) -> Change:
        """A nucleus is right: it stays, whatever the sliders do."""
        record = self._record(label)
        return self._do(f"accept nucleus {label}", None, 0, {label: record._replace(state="accepted")})

    def release(self, label: int) -> Change:
        """Give a nucleus back to the sliders, which make of it what they would have.

        Raises
        ------
        UserError
            If the sliders never had it.
        """
        record = self._record(label)
        if record.source != "network" or not any(label in p.id_of for p in self.planes.values()):
            raise UserError(
                f"nucleus {label} does not come from the sliders, so they cannot have it back; "
                "delete it instead"
            )
        change = self._changed(f"release nucleus {label}", None, 0, {label: record._replace(state="found")})
        self._apply(change)
        parts = [change]
        for index, plane in self.planes.items():
            if label in plane.id_of:
                tuned = self._retuned(self._settings[index], index)
                self._apply(tuned)
                parts.append(tuned)
        return self._keep(replace(joined(parts), what=f"release nucleus {label}"))

    def delete(self, label: int) -> Change:
        """Erase a nucleus, in all planes."""
        self._record(label)
        return self._painted(f"delete nucleus {label}", np.flatnonzero(self._flat == label), 0)

    def merge(self, ids: Iterable[int]) -> Change:
        """Make one of several nuclei, under the first id; UserError if there are fewer than two."""
        first, *others = dict.fromkeys(int(i) for i in ids if self.is_present(int(i))) or [0]
        if not others:
            raise UserError("merging needs at least two nuclei under the line")
        where = np.flatnonzero(np.isin(self._flat, others))
        return self._painted(f"merge nuclei {', '.join(map(str, (first, *others)))}", where, first)

    def split(self, ids: Iterable[int], line: editing.Line, index: Index = ()) -> Change:
        """Cut nuclei of one plane along a line; the smaller side of each gets a new id.

        Raises
        ------
        UserError
            If there are none, or the line leaves one of them whole.
        """
        chosen = [int(i) for i in ids]
        if not chosen:
            raise UserError("there is no nucleus under the line: draw it across one")
        plane = self.labels[index]
        pieces = [editing.split(plane, label, line, self.new_id()) for label in chosen]
        rows, columns = (np.concatenate([pixels[axis] for pixels, _ in pieces]) for axis in (0, 1))
        where = self._places(index, rows, columns)
        order = np.argsort(where)
        new = {
            int(values[0]): Nucleus("edited", "person", class_id=self.nuclei[label].class_id)
            for label, (_, values) in zip(chosen, pieces, strict=True)
        }
        values = np.concatenate([values for _, values in pieces])
        return self._painted(f"split {numbered(chosen)}", where[order], values[order], new)

    def put_in(self, box: tuple[int, int, int, int], found: Instances, index: Index = ()) -> Change:
        """Put what a second look found in place of what a box (x0, y0, x1, y1) of a plane holds.

        Nuclei that lie wholly inside and that no person looked at go; new ones take the place that the rest
        leaves. `found` is in pixels of the box.
        """
        keep = np.array([i for i, n in self.nuclei.items() if n.state != "found"], np.int64)
        first = self.last_id + 1
        (rows, columns), values = editing.replace_within(self.labels[index], box, found, first, keep)
        self.last_id += len(found)
        votes, classes = found.votes.tolist(), found.classes.tolist()
        new = {
            first + k: Nucleus("found", "look again", round(score, 6), votes[k], classes[k])
            for k, score in enumerate(found.scores.tolist())
        }
        there = {label: record for label, record in new.items() if (values == label).any()}
        return self._painted("look again", self._places(index, rows, columns), values, there)

    def take_pixels(self, pixels: NDArray[np.integer], region: tuple[slice, ...] = ()) -> Change:
        """Take over what a person painted.

        A nucleus that is painted with the id of one that has gone gets a new id: see the change's ``after``.

        Parameters
        ----------
        pixels : (…, H, W), the labels as they are now.
        region : where to look for differences, from the first axis on; by default everywhere.
        """
        mine, theirs = self.labels[region], np.asarray(pixels[region])
        there = np.nonzero(mine != theirs)
        starts = [0 if s.start is None else s.start for s in region] + [0] * self.labels.ndim
        place = tuple(axis + start for axis, start in zip(there, starts, strict=False))
        where = np.ravel_multi_index(place, self.labels.shape).astype(np.int64)
        values = theirs[there].astype(np.int64)
        new: dict[int, Nucleus] = {}
        for label in np.unique(values[values != 0]).tolist():
            if self.last_id < label <= min(HIGHEST, self.last_id + _ANYONES):
                self.last_id = label
                new[label] = Nucleus("drawn", "person")
            elif not self.is_present(label):  # it may have been somebody's, whom a slider brings back
                fresh = self.new_id()
                values[values == label] = fresh
                new[fresh] = Nucleus("drawn", "person")
        return self._painted("paint", where, values.astype(np.int32), new)

    def retune(self, settings: PostprocessSettings, index: Index = (), *, hand: str = "sliders") -> Change:
        """Nuclei of a plane for other settings; those that a person worked on stay as they are.

        Parameters
        ----------
        hand : moves of the same hand are one step, until ``history.rest()``.
        """
        change = self._retuned(settings, self._tunable(index))
        self._apply(change)
        return self._keep(change, hand=hand)

    def repeat(self, change: Change) -> None:
        """Do a step that was done to this very document before it was read from a file."""
        self._apply(change)
        self._keep(change)

    def undo(self) -> Change | None:
        """Take the last step back; the change that did so, None if there is nothing to undo."""
        return self._moved(self.history.back())

    def redo(self) -> Change | None:
        """Do again what was undone last."""
        return self._moved(self.history.forward())

    # ---- how ----

    def _tunable(self, index: Index) -> Index:
        if index not in self.planes:
            raise UserError("this plane was not segmented: there is nothing to tune in it")
        return index

    def _record(self, label: int) -> Nucleus:
        if not self.is_present(label):
            raise UserError("choose a nucleus first: click on it, or on its row in the table")
        return self.nuclei[label]

    def _places(self, index: Index, rows: NDArray[Any], columns: NDArray[Any]) -> NDArray[np.int64]:
        """Places in the flattened labels of a plane's pixels."""
        of_plane = tuple(np.full(len(rows), i) for i in index)
        return np.ravel_multi_index((*of_plane, rows, columns), self.labels.shape).astype(np.int64)

    def _retuned(self, settings: PostprocessSettings, index: Index) -> Change:
        plane, current = self.planes[index], self.labels[index]
        made = plane.nuclei(settings)
        made = replace(made, ids=plane.ids_of(made, self.new_id, beside(self.labels, index), self.link))
        staying = np.array([i for i, n in self.nuclei.items() if n.stays], np.int64)
        free = ~np.isin(made.ids, staying)
        made = replace(made[free], ids=made.ids[free])
        labels = laid_over(current, staying, made, settings.max_lost)
        rows, columns = np.nonzero(labels != current)
        where = self._places(index, rows, columns)
        records = self._records_of(made, index)
        change = self._changed("move sliders", where, labels[rows, columns], records)
        return replace(change, settings={index: (self._settings[index], settings)})

    def _records_of(self, made: Instances, index: Index) -> dict[int, Nucleus]:
        """Records of a plane's nuclei; of objects that lie in other planes, too, the best of all."""
        found = records_of(made, made.ids)
        for other, plane in self.planes.items() if len(self.planes) > 1 else ():
            if other == index:
                continue
            there = plane.nuclei(self._settings[other])
            ids = plane.id_of[there.sources]
            shared = np.isin(ids, made.ids)
            for label, record in records_of(there[shared], ids[shared]).items():
                found[label] = better(found[label], record)
        return found

    def _painted(
        self,
        what: str,
        where: NDArray[np.int64],
        after: Any,
        new: Mapping[int, Nucleus] | None = None,
    ) -> Change:
        """Set pixels: a nucleus that gains or loses any is edited, one that loses all is deleted.

        Parameters
        ----------
        new : records of new nuclei.
        """
        before, after = self._flat[where], np.broadcast_to(np.asarray(after, np.int32), where.shape)
        gained = _pixels_of(after)
        gained.subtract(_pixels_of(before))
        known = {label: self.nuclei[label] for label in gained if label not in (new or {})}
        records = {i: n.painted_over(self._sizes[i] + gained[i]) for i, n in known.items()}
        return self._do(what, where, after, records | dict(new or {}))

    def _do(
        self, what: str, where: NDArray[np.int64] | None, after: Any, records: Mapping[int, Nucleus]
    ) -> Change:
        change = self._changed(what, where, after, records)
        self._apply(change)
        return self._keep(change)

    def _changed(
        self, what: str, where: NDArray[np.int64] | None, after: Any, records: Mapping[int, Nucleus]
    ) -> Change:
        where = np.zeros(0, np.int64) if where is None else where
        values = np.broadcast_to(np.asarray(after, np.int32), where.shape).copy()
        pairs = {i: (self.nuclei.get(i), record) for i, record in records.items()}
        return Change(
            what, where, self._flat[where], values, {i: p for i, p in pairs.items() if p[0] != p[1]}
        )

    def _apply(self, change: Change) -> None:
        self._sizes.subtract(_pixels_of(change.before))
        self._sizes.update(_pixels_of(change.after))
        self._flat[change.where] = change.after
        for label, (_, record) in change.nuclei.items():
            if record is None:
                self.nuclei.pop(label, None)
            else:
                self.nuclei[label] = record
        for index, (_, settings) in change.settings.items():
            self._settings[index] = self.settings = settings
        if self.chosen and not self.is_present(self.chosen):
            self.chosen = 0

    def _keep(self, change: Change, *, hand: str = "") -> Change:
        self.history.add(change, hand=hand)
        for listener in self.listeners:
            listener(change)
        return change

    def _moved(self, change: Change | None) -> Change | None:
        if change is not None:
            self._apply(change)
            for listener in self.listeners:
                listener(change)
        return change


def _pixels_of(values: NDArray[np.int32]) -> Counter[int]:
    """Pixels of each nucleus among some values of labels."""
    ids, counts = sizes_of(values)
    return Counter(dict(zip(ids.tolist(), counts.tolist(), strict=True)))
