"""A labels layer as the view of a document: what is painted goes into it, what it changes is shown."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Image, Labels
from napari.qt.threading import create_worker
from qtpy.QtCore import QTimer

from napari_deepretina._widgets.documents import layer_of, told_of, unsaved_folder
from napari_deepretina._widgets.hub import hub, report
from napari_deepretina._widgets.measuring import aligned, channels_of, pixel_size_of
from napari_deepretina._widgets.own_labels import KEY, RAW
from napari_deepretina.data.regions import with_regions
from napari_deepretina.document import Change, Document, measure
from napari_deepretina.document.changes import Index
from napari_deepretina.document.making import copied
from napari_deepretina.document.measure import Columns
from napari_deepretina.document.store import SUFFIX, Autosave
from napari_deepretina.files import remove
from napari_deepretina.postprocess import PostprocessSettings

log = logging.getLogger(__name__)
SAVE_MS = 500
"""After a step, before it is written to disk."""
MOST_AT_ONCE = 2**25
"""Labels of more pixels are measured only when somebody asks for it."""
REST_MS = 150
"""After the hand rests for so long, what is too slow to follow a slider catches up."""


_Before = tuple[Document, Any, PostprocessSettings, str]
"""A result that was replaced: its document, its layer's mark, where its sliders began, and by what."""


class DocumentView:
    """Keeps a layer and its document alike.

    Attributes
    ----------
    begun_with : settings that the sliders go back to.
    begun_count : nuclei that there were before any slider moved.
    owner : the layer's own id: napari's copy of a layer shares its metadata, but not its document.
    images : image layers whose intensities are measured.
    measured : columns of the last measurement.
    listeners : called after every step and every choice of a nucleus; after moves of a slider, when the hand
        rests.
    """

    def __init__(self, layer: Labels, document: Document, begun_with: PostprocessSettings) -> None:
        self.layer, self.document, self.begun_with = layer, document, begun_with
        self.owner, self.begun_count = str(layer.unique_id), len(document.present)
        self.listeners: list[Callable[[], None]] = []
        self._earlier: list[_Before] = []
        self._later: list[_Before] = []
        self._quiet = False
        self._painted: list[Any] = []
        self._keeper: Autosave | None = None
        self.images: list[Image] = []
        self.measured: Columns = {}
        self._measuring: Any = None
        self._measure_again = False
        self._timer = _timer(SAVE_MS, self.save)
        self.rest = _timer(REST_MS, self.settle)
        document.listeners.append(self._on_step)
        layer.events.paint.connect(self._on_painted)
        layer.events.data.connect(self._on_data)
        layer.events.selected_label.connect(self._on_brush)
        self._keep()
        self.show_features()
        self.choose(0)

    def settle(self) -> None:
        """The hand rests: the next move is a step of its own, and what waits is brought up to date."""
        self.rest.stop()
        self.document.history.rest()
        self.show_features()
        self._tell()

    def replace(self, document: Document, what: str = "segment again") -> None:
        """Show another result in this layer; `undo` goes back to the one before, with all its steps.

        Parameters
        ----------
        what : made it, in words.
        """
        self._earlier.append((self.document, self.layer.metadata.get(KEY), self.begun_with, what))
        self._later.clear()
        self._show(document, document.settings)

    def _show(self, document: Document, begun_with: PostprocessSettings) -> None:
        self.rest.stop()
        self._timer.stop()
        self.save()
        self._painted = []
        self.document.listeners.remove(self._on_step)
        self.document, self.begun_with, self.measured = document, begun_with, {}
        self.begun_count = len(document.present)
        document.listeners.append(self._on_step)
        self._quiet = True
        try:
            self.layer.data = document.labels.copy()
        finally:
            self._quiet = False
        self.layer._reset_history()
        self.forget()
        self._timer.start()
        self.show_features()
        self.choose(document.chosen)

    def _go(self, source: list[_Before], target: list[_Before]) -> bool:
        """Back to the result before, or forward to the one after; whether there is one."""
        if not source:
            return False
        document, mark, begun_with, what = source.pop()
        target.append((self.document, self.layer.metadata.get(KEY), self.begun_with, what))
        self.layer.metadata = {**self.layer.metadata, KEY: mark}
        self._show(document, begun_with)
        hub.shown.emit(self.layer)
        return True

    def index(self, step: tuple[int, ...]) -> Index:
        """The plane of the layer that is shown.

        Parameters
        ----------
        step : the viewer's position, on the layer's own axes.
        """
        shape = self.layer.data.shape
        return tuple(int(np.clip(s, 0, n - 1)) for s, n in zip(step[:-2], shape[:-2], strict=True))

    # ---- one nucleus is chosen ----

    def choose(self, label: int) -> None:
        """Make a nucleus the one that is looked at, and that the brush mends; 0 for none."""
        self.sync()
        self.document.choose(label)
        self._quiet = True
        try:
            self.layer.selected_label = self.document.chosen or self.document.last_id + 1
        finally:
            self._quiet = False
        self._tell()

    def _on_brush(self, event: Any = None) -> None:
        """A person gave the brush another label, or picked one up."""
        before, label = self.document.chosen, int(self.layer.selected_label)
        if self._quiet or label == before:
            return
        self.document.choose(label)
        if self.document.chosen != before:
            self._tell()

    # ---- steps ----

    @property
    def can_undo(self) -> str:
        """What `undo` would take back, in words; empty if nothing."""
        done = self.document.history.done
        return done[-1].what if done else self._earlier[-1][3] if self._earlier else ""

    @property
    def can_redo(self) -> str:
        """What `redo` would do again; empty if nothing."""
        undone = self.document.history.undone
        return undone[-1].what if undone else self._later[-1][3] if self._later else ""

    def undo(self) -> None:
        """Take the last step back; where there is none, the last run."""
        self.sync()
        if self.document.undo() is None:
            self._go(self._earlier, self._later)

    def before(self) -> bool:
        """Back to the result that this one replaced, whatever was done to it since; whether there is one."""
        self.sync()
        return self._go(self._earlier, self._later)

    def redo(self) -> None:
        """Do again what was undone last."""
        self.sync()
        if self.document.redo() is None:
            self._go(self._later, self._earlier)

    def retune_all(self, settings: PostprocessSettings, first: Index, done: Callable[[], None]) -> None:
        """Make the nuclei of every plane with these settings, as one step; returns at once.

        Parameters
        ----------
        first : plane that comes first.
        done : called when all are made.
        """
        document = self.document
        waiting = [*(i for i in document.planes if i != first), first]
        document.history.rest()

        def following() -> None:
            """One plane, and the next when Qt has drawn; a new result ends it."""
            if document is not self.document:
                return
            document.retune(settings, waiting.pop(), hand="all planes")
            if waiting:
                QTimer.singleShot(0, following)
            else:
                self.settle()
                done()

        following()

    def sync(self) -> None:
        """Take over what was painted since."""
        if self._painted:
            region, self._painted = _hull(self._painted, self.layer.data.ndim), []
            self._take(region)

    def take_over(self) -> None:
        """Take over whatever changed the layer's pixels, painting or not."""
        self._painted = []
        self._take(())

    def _on_painted(self, event: Any) -> None:
        """A stroke is over; napari may say so before its pixels are set."""
        self._painted += event.value
        QTimer.singleShot(0, self.sync)

    def _on_data(self, event: Any = None) -> None:
        if not self._quiet:
            self._take(())

    def _take(self, region: tuple[slice, ...]) -> None:
        pixels = np.asarray(self.layer.data)
        if pixels.shape != self.document.labels.shape:
            log.warning("%s has another shape now: its nuclei are not reviewed any more", self.layer.name)
            return
        brush = int(self.layer.selected_label)
        change = self.document.take_pixels(pixels, region)
        if len(change.where) and not self.document.is_present(brush):  # its id was somebody else's
            self.choose(int(change.after.max(initial=0)))

    def _on_step(self, change: Change) -> None:
        """Show what a step changed."""
        data = np.asarray(self.layer.data)
        place = np.unravel_index(change.where, data.shape)
        if (data[place] != change.after).any():
            self._quiet = True
            try:
                data[place] = change.after
                self.layer.refresh(extent=False)
            finally:
                self._quiet = False
        self.layer._reset_history()  # the document undoes, in the order in which things happened
        mark = self.layer.metadata.get(KEY)
        if mark is not None:
            mark["settings"] = mark["settings"] | self.document.settings.model_dump()
        if self._keeper is not None:
            self._timer.start()
        if change.settings:
            self.rest.start()
        else:
            self.settle()

    def _tell(self) -> None:
        for listener in self.listeners:
            listener()

    def show_features(self) -> None:
        """The layer's features as the document has them; what must be measured comes a little later."""
        self._set_features()
        if self.document.labels.size <= MOST_AT_ONCE or self.measured:
            self._measure()

    def _set_features(self) -> None:
        known = self.document.known()
        self.layer.features = with_regions(
            known | aligned(self.measured, known["index"]), self.document.regions
        )

    def measure(self, images: Sequence[Image]) -> None:
        """Measure intensities in these image layers as well, from now on."""
        self.images = list(images)
        self._measure()

    def _measure(self) -> None:
        """Measure the nuclei as they are now, off the GUI thread."""
        if self._measuring is not None:
            self._measure_again = True
            return
        channels: dict[str, Any] = {}
        for image in self.images:
            channels |= channels_of(image, self.layer)
        size = pixel_size_of(self.layer.scale, self.layer.units)
        self._measure_again = False
        self._measuring = create_worker(measure, self.document.labels.copy(), channels, pixel_size=size)
        self._measuring.returned.connect(self._on_measured)
        self._measuring.finished.connect(self._on_measurer_free)
        self._measuring.start()

    def _on_measured(self, measured: Columns) -> None:
        self.measured = {k: v for k, v in measured.items() if k != "area"}
        if not self._measure_again:
            self._set_features()
            self._tell()

    def _on_measurer_free(self) -> None:
        self._measuring = None
        if self._measure_again:
            self._measure()

    # ---- on disk ----

    def _keep(self) -> None:
        """Write every step from now on to a file, so that no crash can lose it."""
        path = unsaved_folder() / f"{self.owner}{SUFFIX}"
        self._keeper = Autosave(self.document, path, told_of(self.layer))

    def go_on_in(self, path: Path) -> None:
        """The document was read from a file of an earlier session: keep it as one of this session's."""
        self._keeper = Autosave(self.document, path, told_of(self.layer))
        self._keeper.write_all()

    def forget(self) -> None:
        """The nuclei are saved elsewhere, or not wanted any more: nothing is left behind."""
        if self._keeper is not None:
            self._keeper.close()
            remove(self._keeper.path)
            self._keep()

    def save(self) -> None:
        """Write the steps that are not on disk yet."""
        written = self._keeper.write() if self._keeper is not None else None
        if written is not None:
            written.add_done_callback(report)


def restored(viewer: Any, path: Path) -> Labels:
    """Put a document of an earlier session into a layer; its file goes on as the layer's own."""
    data, meta, _ = layer_of(path)
    layer: Labels = viewer.add_labels(data, **meta)
    if (view := view_of(layer)) is not None:
        view.go_on_in(path)
    hub.shown.emit(layer)
    return layer


def view_of(layer: Any) -> DocumentView | None:
    """The view that a labels layer belongs to; a copy of a layer gets a document of its own."""
    found = layer.metadata.get(RAW)
    if isinstance(found, Document):  # it was read from a file
        found = layer.metadata[RAW] = DocumentView(layer, found, found.settings)
        layer.contour = 2
    if not isinstance(found, DocumentView):
        return None
    if found.owner != str(layer.unique_id):
        copy = DocumentView(layer, copied(found.document), found.begun_with)
        layer.metadata = {**layer.metadata, RAW: copy}
        copy.take_over()
        return copy
    found.sync()
    return found


def _timer(milliseconds: int, what: Callable[[], None]) -> QTimer:
    """Calls once, so long after it was started last."""
    timer = QTimer()
    timer.setSingleShot(True)
    timer.setInterval(milliseconds)
    timer.timeout.connect(what)
    return timer


def _hull(atoms: list[Any], axes: int) -> tuple[slice, ...]:
    """A box around what a stroke changed, which napari keeps as places or as slices with a mask."""
    low, high = [np.iinfo(np.int64).max] * axes, [-1] * axes
    for place, *_ in atoms:
        for axis, along in enumerate(place):
            if isinstance(along, slice):
                if along.start is None or along.stop is None:
                    return ()
                first, last = int(along.start), int(along.stop) - 1
            elif not np.size(along):
                continue
            else:
                first, last = int(np.min(along)), int(np.max(along))
            low[axis], high[axis] = min(low[axis], first), max(high[axis], last)
    return tuple(slice(max(0, a), b + 1) for a, b in zip(low, high, strict=True) if b >= 0)
