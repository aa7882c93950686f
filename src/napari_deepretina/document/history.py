"""Steps in the order in which they happened, to be undone and redone."""

from __future__ import annotations

from napari_deepretina.document.changes import Change

MOST_BYTES = 256 * 2**20
"""Older steps than fit in this much memory are forgotten, and cannot be undone any more."""


class History:
    """A log of changes and a place in it.

    Attributes
    ----------
    done : oldest first.
    undone : the one that redo would do last.
    """

    def __init__(self) -> None:
        self.done: list[Change] = []
        self.undone: list[Change] = []
        self._open = ""

    def add(self, change: Change, *, hand: str = "") -> None:
        """One more step; what was undone is forgotten.

        Parameters
        ----------
        hand : what is being moved, such as a slider: a step of the same hand joins the last one, until
            `rest`.
        """
        if hand and self._open == hand:
            change = self.done.pop().then(change)
        elif change.is_empty:
            return
        self.undone.clear()
        self._open = "" if change.is_empty else hand
        if not change.is_empty:
            self.done.append(change)
        size = sum(c.nbytes for c in self.done)
        while size > MOST_BYTES and len(self.done) > 1:
            size -= self.done.pop(0).nbytes

    def rest(self) -> None:
        """The hand rests: what comes is a step of its own."""
        self._open = ""

    def back(self) -> Change | None:
        """The change that undoes the last step, which is one to redo from now on; None if there is none."""
        self.rest()
        if not self.done:
            return None
        self.undone.append(self.done.pop())
        return self.undone[-1].backwards()

    def forward(self) -> Change | None:
        """The change that was undone last; None if there is none."""
        self.rest()
        if not self.undone:
            return None
        self.done.append(self.undone.pop())
        return self.done[-1]
