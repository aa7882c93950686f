"""What is known of each nucleus beside its pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.instances import Instances

State = Literal["found", "accepted", "edited", "drawn", "deleted"]
Source = Literal["network", "look again", "person"]


class Nucleus(NamedTuple):
    """What is known of one nucleus beside its pixels.

    Attributes
    ----------
    state : found by the network and left as it is, accepted, edited or drawn by a person, or deleted.
    source : who found it first: the network, the network when it looked again, or a person.
    score : the network's own, 0…1; None where it gave none.
    votes : views that saw it.
    class_id : 1…C.
    """

    state: State
    source: Source
    score: float | None = None
    votes: int = 0
    class_id: int = 1

    @property
    def stays(self) -> bool:
        """Whether its pixels are kept whatever the sliders do."""
        return self.state != "found" or self.source != "network"

    def painted_over(self, left: int) -> Nucleus:
        """The record after a person changed pixels, so many of which are left."""
        state: State = "drawn" if self.state == "drawn" else "edited"
        return self._replace(state=state if left else "deleted")


def records_of(found: Instances, ids: NDArray[np.integer]) -> dict[int, Nucleus]:
    """Records of nuclei as the network found them, by id."""
    rest = (found.scores.tolist(), found.votes.tolist(), found.classes.tolist())
    return {
        label: Nucleus("found", "network", round(score, 6), votes, class_id)
        for label, score, votes, class_id in zip(ids.tolist(), *rest, strict=True)
    }


def better(one: Nucleus, other: Nucleus | None) -> Nucleus:
    """One object's record, with the best that two planes say of it."""
    if other is None:
        return one
    return one._replace(score=max(one.score or 0, other.score or 0), votes=max(one.votes, other.votes))


def known_columns(
    ids: NDArray[np.int64], nuclei: Mapping[int, Nucleus], sizes: Mapping[int, int], classes: Sequence[str]
) -> dict[str, NDArray[Any]]:
    """Columns of what is known of some nuclei: see `Document.known`."""
    rows, names = [nuclei[i] for i in ids.tolist()], ("", *classes)
    return {
        "index": ids,
        "state": np.array([n.state for n in rows], object),
        "source": np.array([n.source for n in rows], object),
        "score": np.array([np.nan if n.score is None else n.score for n in rows], float),
        "votes": np.array([n.votes for n in rows], np.int32),
        "class": np.array([names[n.class_id] if n.class_id < len(names) else "" for n in rows], object),
        "area": np.array([sizes[i] for i in ids.tolist()], np.int64),
    }
