"""Which planes of a stack are segmented, and whether their nuclei are linked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from magicgui.widgets import ComboBox, FloatSpinBox, SpinBox
from qtpy.QtWidgets import QFormLayout, QHBoxLayout, QLabel, QWidget

from napari_deepretina.inference.planes import Layout

THIS, RANGE, ALL = "the one shown", "a range", "all"


@dataclass(frozen=True)
class Asked:
    """Planes along an axis, as `SegmentSettings` names them, and what the axis is called."""

    along: int
    letter: str
    planes: str
    link: float


class StackBox(QWidget):
    """Controls that are only there for images with more axes than two."""

    def __init__(self) -> None:
        super().__init__()
        self.planes = ComboBox(label="planes", choices=[THIS, RANGE, ALL], value=THIS)
        self.along = ComboBox(label="along", choices=[("", -1)])
        self.first = SpinBox(min=0, max=0)
        self.last = SpinBox(min=0, max=0)
        self.link = FloatSpinBox(label="link", min=0, max=1, step=0.05, value=0)
        self.link.tooltip = (
            "Nuclei of neighbouring planes that overlap by at least this much (IoU) get one id: 3D objects "
            "along z, tracks along time. 0 leaves planes apart."
        )
        self.link.native.setSpecialValueText("planes apart")
        for name in ("planes", "along", "first", "last", "link"):
            getattr(self, name).native.setObjectName(name)
        self._range = QWidget()
        row = QHBoxLayout(self._range)
        row.setContentsMargins(0, 0, 0, 0)
        for part in (self.first.native, QLabel("to"), self.last.native):
            row.addWidget(part)
        row.addStretch()
        self._form = QFormLayout(self)
        self._form.setContentsMargins(0, 0, 0, 0)
        for text, part in (
            ("planes", self.planes.native), ("along", self.along.native), ("from", self._range),
            ("link", self.link.native),
        ):  # fmt: skip
            self._form.addRow(text, part)
        self._shape: tuple[int, ...] = ()
        self._offered: list[tuple[str, int]] = []
        self._letters: dict[int, str] = {}
        self.planes.changed.connect(self._show)
        self.along.changed.connect(self._fit_range)
        self._show()

    def fit(self, layout: Layout, names: Sequence[str], *, channel: int | None) -> None:
        """Offer what an image has; what was chosen stays chosen where it can.

        Parameters
        ----------
        names : of the image's axes but RGB, as its layer calls them.
        """
        self._shape = shape = layout.shape
        taken = layout.either if channel is not None else None
        axes = [a for a in layout.plane_axes if a != taken]
        named = [names[a] if a < len(names) else "" for a in axes]
        self._letters = {
            a: _letter(n, k) for k, (a, n) in enumerate(zip(axes[::-1], named[::-1], strict=True))
        }
        kinds = {a: "planes or channels" if a == layout.unsure else "planes" for a in axes}
        choices = [(f"{_told(names, a)} ({shape[a]} {kinds[a]})", a) for a in axes]
        if choices != self._offered and choices:
            chosen = self.along.value
            self.along.choices = self._offered = choices
            self.along.value = chosen if chosen in axes else axes[-1]
        self.setVisible(bool(axes))
        if not axes:
            self.planes.value = THIS
        self._fit_range()

    def asked(self) -> Asked | None:
        """What is to be done; None for the plane that is shown."""
        if self.planes.value == THIS or not self._letters:
            return None
        along = int(self.along.value)
        planes = "all" if self.planes.value == ALL else f"{self.first.value}:{self.last.value + 1}"
        return Asked(along, self._letters[along], planes, round(float(self.link.value), 4))

    def _show(self, _: Any = None) -> None:
        for part, shown in (
            (self.along.native, self.planes.value != THIS),
            (self._range, self.planes.value == RANGE),
            (self.link.native, self.planes.value != THIS),
        ):
            part.setVisible(shown)
            self._form.labelForField(part).setVisible(shown)

    def _fit_range(self, _: Any = None) -> None:
        along = self.along.value
        if along is None or along >= len(self._shape):
            return
        most = self._shape[along] - 1
        if self.last.max != most:
            self.first.max = self.last.max = most
            self.first.value, self.last.value = 0, most


def _told(names: Sequence[str], axis: int) -> str:
    name = names[axis] if axis < len(names) else ""
    return name if name and not name.lstrip("-").isdigit() else f"axis {axis}"


def _letter(name: str, from_last: int) -> str:
    """Z, T or another letter that is neither Y, X nor C."""
    first = name[:1].upper()
    return first if first.isalpha() and first not in "YXC" else "ZTUVW"[from_last % 5]
