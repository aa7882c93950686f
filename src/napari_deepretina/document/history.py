"""Steps in the order in which they happened, to be undone and redone."""

from __future__ import annotations

from napari_deepretina.document.changes import Change, joined

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
        self._hand = ""
        self._moves: list[Change] = []

    def add(self, change: Change, *, hand: str = "") -> None:
        """One more step; what was undone is forgotten.

        Parameters
        ----------
        hand : what is being moved, such as a slider: a step of the same hand joins the last one, until
            `rest`.
        """
        if not hand or self._hand != hand:
            self.rest()
        if change.is_empty and not self._moves:
            return
        self.undone.clear()
        if hand:
            self._hand = hand
            self._moves.append(change)
        else:
            self._append(change)

    def rest(self) -> None:
        """The hand rests: its moves are one step, and what comes is another."""
        moves, self._moves, self._hand = self._moves, [], ""
        if moves:
            self._append(joined(moves))

    def _append(self, change: Change) -> None:
        if not change.is_empty:
            self.done.append(change)
        size = sum(c.nbytes for c in self.done)
        while size > MOST_BYTES and len(self.done) > 1:
            size -= self.done.pop(0).nbytes

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
