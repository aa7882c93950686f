"""Step through a folder's images: each opens with its nuclei, and what is corrected is kept."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Image, Labels
from napari.utils.notifications import show_error, show_info
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_deepretina._widgets.dock import keys_to_canvas
from napari_deepretina._widgets.document_view import view_of
from napari_deepretina._widgets.hub import hub
from napari_deepretina._widgets.own_labels import RAW, is_ours, sign
from napari_deepretina._widgets.placing import bright_colours, placement
from napari_deepretina._widgets.running import RunBox
from napari_deepretina._widgets.safe_import import import_torch
from napari_deepretina.data.picture import Picture, Wanted
from napari_deepretina.errors import UserError
from napari_deepretina.files import short_path
from napari_deepretina.inference.steps import Progress

KEYS = {"Alt-Left": "previous", "Alt-Right": "next", "Alt-Enter": "done"}
"""None that a field for text or numbers would take, for napari puts the focus into one."""


@dataclass(frozen=True)
class Asked:
    """What a person asks of a folder.

    Attributes
    ----------
    folder, out : of the images, and of the joint results.
    beside : whether each image's results go beside it.
    values : settings, as `SegmentSettings` takes them.
    axes : letters of the images' axes; empty where the files tell.
    """

    folder: Path
    out: Path
    formats: list[str]
    beside: bool
    values: dict[str, Any]
    axes: str


class FolderSteps(QWidget):
    """Buttons and keys for the images of the folder in the form above.

    Parameters
    ----------
    box : shows progress and messages.
    asked : gives what the form says, or raises UserError.
    segment : segments an image layer that is open.
    busy : whether an image that is open is being segmented.
    """

    def __init__(
        self,
        viewer: Any,
        box: RunBox,
        asked: Callable[[], Asked],
        segment: Callable[[Image], None],
        busy: Callable[[], bool],
    ) -> None:
        super().__init__()
        self._viewer, self._box, self._asked, self._segment = viewer, box, asked, segment
        self._busy = busy
        self._state_kept: Any = None
        self._last: Asked | None = None
        self._review: Any = None
        self._opened: Any = None
        self._number = -1
        self._image: Image | None = None
        self._labels: Labels | None = None
        self._buttons: dict[str, QPushButton] = {}
        row = QHBoxLayout()
        for name, text, tip in (
            ("previous_image", "◀ Previous", "Keep this image and open the one before (Alt+Left)"),
            ("next_image", "Next ▶", "Keep this image and open the next (Alt+Right)"),
            ("image_done", "Done, next ✓", "Mark this image as reviewed and open the next (Alt+Enter)"),
        ):
            button = self._buttons[name] = QPushButton(text)
            button.setObjectName(name)
            button.setToolTip(tip)
            row.addWidget(button)
        self._buttons["previous_image"].clicked.connect(lambda: self.do("previous"))
        self._buttons["next_image"].clicked.connect(lambda: self.do("next"))
        self._buttons["image_done"].clicked.connect(lambda: self.do("done"))
        self.where = QLabel("Step through the folder's images to correct them one after the other.")
        self.where.setObjectName("where")
        self.where.setWordWrap(True)
        self.where.setMinimumHeight(2 * self.fontMetrics().lineSpacing())
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.where)
        layout.addLayout(row)
        for key, name in KEYS.items():
            viewer.bind_key(key, lambda _, name=name: self.do(name), overwrite=True)

    @property
    def number(self) -> int:
        """Of the image that is open, counted from 0; -1 if none is."""
        return self._number

    def do(self, name: str) -> None:
        """Go to the previous image or the next, or mark this one as done and go on."""
        try:
            self._go(-1 if name == "previous" else 1, done=True if name == "done" else None)
        except UserError as error:
            self._box.say(str(error), show_error)

    def _go(self, by: int, *, done: bool | None) -> None:
        if self._box.worker is not None or self._busy():
            raise UserError("something is at work already: wait for it, or cancel it")
        asked, last = self._asked(), self._last
        here = last is not None and (asked.folder, asked.out) == (last.folder, last.out)
        if done and (not here or self._opened is None):
            raise UserError("open an image of the folder first: press Next")
        keep = self._to_keep(done)
        self._state_kept = self._state()
        review = self._review if asked == last else None
        self._last = asked
        self._box.start(
            "Open an image",
            step_job,
            asked,
            review,
            keep,
            self._number + by if here and self._number >= 0 else None,
            done=self._show,
        )

    def _to_keep(self, done: bool | None) -> tuple[Any, Any, Any, bool | None] | None:
        """The review, the image, its document and its state, if there is anything to keep."""
        self._labels = self._made_here() or self._labels
        view = None if self._labels is None else view_of(self._labels)
        if view is None or self._opened is None:
            return None
        return self._review, self._opened, view.document, done

    def _state(self) -> Any:
        """What tells whether a person went on working on the nuclei."""
        view = None if self._labels is None else view_of(self._labels)
        if view is None:
            return None
        done = view.document.history.done
        return id(view.document), len(done), id(done[-1]) if done else 0

    def _made_here(self) -> Labels | None:
        """The result that Segment made of the image that was opened here."""
        if self._image is None:
            return None
        found = [x for x in self._viewer.layers if isinstance(x, Labels) and is_ours(x, self._image)]
        return found[-1] if found else None

    def _show(self, result: Any) -> None:
        """Another image, in place of the one that was open here."""
        self._review, number, opened = result
        if opened is None:
            last = number >= len(self._review.sources)
            self._tell("This was the last image." if last else "This is the first image.")
            return
        if self._state() != self._state_kept:
            self._box.say("You went on working while your corrections were being written: go on once more.")
            return
        self._take_away()
        self._number, self._opened = number, opened
        data, meta = layer_of(opened.picture, opened.source.name)
        self._image = self._viewer.add_image(data, **meta)
        keys_to_canvas(self)
        if opened.document is not None:
            self._labels = self._add_labels(opened)
            self._tell("")
        else:
            self._tell("It is segmented now.")
            self._segment(self._image)

    def _add_labels(self, opened: Any) -> Labels:
        assert self._image is not None
        axes = [k for k, letter in enumerate(_letters(opened.picture)) if letter != "C"]
        layer = Labels(
            opened.document.labels.copy(), name=f"{opened.source.name} nuclei", colormap=bright_colours(),
            opacity=1.0, **placement(self._image, axes),
        )  # fmt: skip
        layer.contour = 2
        layer.metadata = {RAW: opened.document}
        index = [None if k in axes else 0 for k in range(self._image.ndim)]
        settings = opened.document.settings.model_dump()
        sign(layer, self._image, {"settings": settings, "index": index, "inputs": [str(opened.source.path)]})
        view_of(layer)
        self._viewer.add_layer(layer)
        hub.shown.emit(layer)
        return layer

    def _take_away(self) -> None:
        """Remove what was opened here; its nuclei are on disk by now."""
        self._labels = self._labels or self._made_here()
        for layer in (self._labels, self._image):
            if layer is not None and layer in self._viewer.layers:
                if (view := view_of(layer)) is not None:
                    view.forget()
                self._viewer.layers.remove(layer)
        self._image = self._labels = self._opened = None

    def _tell(self, more: str) -> None:
        review = self._review
        count, over = len(review.sources), review.done()
        if self._opened is None:
            self.where.setText(more)
            return
        name = self._opened.source.name
        state = " (reviewed)" if review.is_done(name) else ""
        self.where.setText(f"Image {self._number + 1} of {count}: {name}{state} · {over} of {count} reviewed")
        if more:
            self._box.say(more, show_info)
        else:
            place = short_path(review.places.out)
            self._box.status.setText(f"{name} is open; what you correct is kept in {place}.")


def step_job(
    asked: Asked,
    review: Any,
    keep: tuple[Any, Any, Any, bool | None] | None,
    number: int | None,
) -> Generator[Any, None, Any]:
    """Keep one image and read another; returns (review, number, what was opened or None)."""
    if keep is not None:
        yield Progress(0.1, "keeping your corrections")
        before, opened, document, done = keep
        before.keep(opened, document, done=done)
    if review is None:
        yield Progress(0.3, "looking through the folder")
        import_torch()
        from napari_deepretina.inference.folder_review import FolderReview
        from napari_deepretina.inference.results import Places
        from napari_deepretina.inference.settings import make_settings
        from napari_deepretina.inference.sources import Looking, find_sources

        sources = find_sources([str(asked.folder)], Looking(wanted=Wanted(asked.axes)))
        places = Places(asked.out, asked.formats, asked.beside)
        review = FolderReview(sources, places, make_settings(**asked.values))
    if number is None:
        number = review.first()
    if not 0 <= number < len(review.sources):
        return review, number, None
    yield Progress(0.6, f"opening {review.sources[number].name}")
    return review, number, review.open(number)


def _letters(picture: Picture) -> str:
    """Axes of the layer: channels first unless they are colours, then planes, rows and columns."""
    colours = "C" in picture.axes and is_colour(picture)
    rest = "".join(a for a in picture.axes if a not in "YXC")
    return ("" if colours or "C" not in picture.axes else "C") + rest + "YX"


def is_colour(picture: Picture) -> bool:
    """Whether its channels are red, green and blue."""
    return picture.channel_count in (3, 4) and picture.pixels.dtype == np.uint8


def layer_of(picture: Picture, name: str) -> tuple[Any, dict[str, Any]]:
    """Data and keyword arguments of an image layer that shows a picture as its file says."""
    letters = _letters(picture)
    colours = "C" in picture.axes and is_colour(picture)
    order = [picture.axes.index(a) for a in letters + ("C" if colours else "")]
    pixels = picture.pixels
    data = pixels if order == sorted(order) else pixels.transpose(order)
    meta: dict[str, Any] = {"name": name, "rgb": colours, "axis_labels": tuple(letters.lower())}
    if picture.pixel_size is not None:
        rest = len(letters) - 2
        meta |= {"scale": (1.0,) * rest + picture.pixel_size, "units": ("pixel",) * rest + ("um", "um")}
    return data, meta
