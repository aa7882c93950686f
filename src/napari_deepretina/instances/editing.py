"""What a reviewer does to nuclei, as pixels to set: none of these functions changes the labels itself.

Each answers ``(indices, values)`` for ``labels[indices] = values``, so that the caller can apply them in a
way that can be undone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.draw import line as pixels_of_line

from napari_deepretina.errors import UserError
from napari_deepretina.instances.final import Instances
from napari_deepretina.instances.labels import LabelImage, sizes_of

Line = NDArray[np.float64]
"""(2, 2) the two ends as (y, x) in pixels; pixel centres lie at whole numbers, as in napari."""
Change = tuple[tuple[NDArray[np.intp], NDArray[np.intp]], NDArray[np.int32]]


def split(labels: LabelImage, label: int, line: Line, new_id: int) -> Change:
    """Cut a nucleus along a line, drawn on as far as need be: the smaller side gets the new id.

    Raises
    ------
    UserError
        If the line leaves the whole nucleus on one side.
    """
    rows, columns = _pixels(labels, label)
    (y0, x0), (y1, x1) = line
    side = (columns - x0) * (y1 - y0) - (rows - y0) * (x1 - x0) > 0
    if side.all() or not side.any():
        raise UserError(f"the line does not cut nucleus {label}: draw it across")
    smaller = side if np.count_nonzero(side) * 2 <= len(side) else ~side
    return (rows[smaller], columns[smaller]), np.full(np.count_nonzero(smaller), new_id, np.int32)


def ids_under(labels: LabelImage, line: Line) -> NDArray[np.int32]:
    """Ids of the nuclei under a line, in its order, each once."""
    (y0, x0), (y1, x1) = np.round(line).astype(int)
    rows, columns = pixels_of_line(y0, x0, y1, x1)
    height, width = labels.shape
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    met = labels[rows[inside], columns[inside]]
    _, first = np.unique(met, return_index=True)
    ordered: NDArray[np.int32] = met[np.sort(first)]
    return ordered[ordered > 0]


def replace_within(
    labels: LabelImage,
    box: tuple[int, int, int, int],
    found: Instances,
    first_id: int,
    keep: NDArray[np.integer],
) -> Change:
    """Put newly found nuclei where a box (x0, y0, x1, y1) was looked at again.

    Nuclei that lie wholly inside the box go, but those in `keep`; new ones take the place that the rest
    leaves, with ids from `first_id` on.

    Parameters
    ----------
    found : in pixels of the box, in an image of its size.
    """
    x0, y0, x1, y1 = box
    window = labels[y0:y1, x0:x1]
    (here, inside), (ids, total) = sizes_of(window), sizes_of(labels)
    going = np.setdiff1d(here[inside == total[np.searchsorted(ids, here)]], keep)
    new = np.where(np.isin(window, going), 0, window).astype(np.int32)
    fresh = found.to_labels()
    room = (new == 0) & (fresh > 0)
    new[room] = fresh[room] + (first_id - 1)
    rows, columns = np.nonzero(new != window)
    return (rows + y0, columns + x0), new[rows, columns]


def _pixels(labels: LabelImage, label: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    rows, columns = np.nonzero(labels == label) if label > 0 else (np.zeros(0, np.intp),) * 2
    if not len(rows):
        raise UserError("choose a nucleus first: click on it, or on its row in the table")
    return rows, columns
