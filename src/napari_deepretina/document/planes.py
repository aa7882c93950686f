"""One plane's raw detections, and the ids that nuclei made of them keep."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.document.changes import Index
from napari_deepretina.instances import Instances, RawInstances
from napari_deepretina.instances.labels import LabelImage, sizes_of
from napari_deepretina.postprocess.pipeline import Postprocessor
from napari_deepretina.postprocess.settings import PostprocessSettings


class TunedPlane:
    """What settings make of one plane's detections.

    An id belongs to a raw detection for as long as the document lives, so that a nucleus keeps its id, and
    with it its colour, while thresholds move.

    Parameters
    ----------
    raw : detections, kept as they are.
    sources : (N,) the place in `raw` of the detection behind each nucleus shown now, -1 for none.
    ids : (N,) their ids.

    Attributes
    ----------
    id_of : (len(raw),) int32, id of the nucleus that a detection leads; 0 where it never led one.
    """

    def __init__(self, raw: RawInstances, sources: NDArray[np.integer], ids: NDArray[np.integer]) -> None:
        self.raw = raw
        self.id_of = np.zeros(len(raw), np.int32)
        known = sources >= 0
        self.id_of[sources[known]] = ids[known]
        self._postprocess = Postprocessor(raw)
        self._made: tuple[PostprocessSettings, Instances] | None = None

    def nuclei(self, settings: PostprocessSettings) -> Instances:
        """The final instances for these settings; the last answer is kept."""
        if self._made is None or self._made[0] != settings:
            self._made = settings, self._postprocess(settings)
        return self._made[1]

    def ids_of(
        self, made: Instances, new_id: Callable[[], int], beside: Sequence[LabelImage] = (), link: float = 0
    ) -> NDArray[np.int64]:
        """(N,) ids of nuclei made of these detections; those that have none yet are given one.

        Parameters
        ----------
        beside : labels of planes before and after, the nearest first.
        link : a nucleus without an id that overlaps one of theirs by at least this IoU is the same object;
            0 links nothing.
        """
        ids = self.id_of[made.sources]
        new = np.flatnonzero(ids == 0)
        if link > 0 and len(new):
            taken = set(ids[ids > 0].tolist())
            for labels in beside:
                self._link(made, ids, labels, link, taken)
            new = np.flatnonzero(ids == 0)
        ids[new] = [new_id() for _ in new]
        self.id_of[made.sources[new]] = ids[new]
        return ids.astype(np.int64)

    def _link(
        self, made: Instances, ids: NDArray[np.int32], beside: LabelImage, link: float, taken: set[int]
    ) -> None:
        """Give nuclei without an id that of the object under them in another plane, in place."""
        sizes = dict(zip(*(values.tolist() for values in sizes_of(beside)), strict=True))
        pairs = []
        for place in np.flatnonzero(ids == 0).tolist():
            x0, y0, x1, y1 = made.boxes[place].tolist()
            mask = made.masks[place]
            met, counts = np.unique(beside[y0:y1, x0:x1][mask], return_counts=True)
            area = np.count_nonzero(mask)
            pairs += [
                (common / (area + sizes[label] - common), place, label)
                for label, common in zip(met.tolist(), counts.tolist(), strict=True)
                if label > 0
            ]
        for iou, place, label in sorted(pairs, reverse=True):
            if iou >= link and not ids[place] and label not in taken:
                ids[place] = label
                taken.add(label)


def laid_over(
    current: LabelImage, kept: NDArray[np.integer], nuclei: Instances, max_lost: float
) -> LabelImage:
    """New nuclei around those that stay.

    Parameters
    ----------
    current : (H, W), the labels shown now.
    kept : ids that keep their pixels in `current`.
    nuclei : the others, under their ids; they give way to kept ones where they meet, and are left out where
        that takes more than `max_lost` of them.

    Returns
    -------
    (H, W) int32, a new array.
    """
    labels = nuclei.to_labels()
    if not len(kept):
        return labels
    mask = np.isin(current, kept)
    covered = np.unique(labels[mask])
    for label in covered[covered > 0].tolist():
        place = int(np.flatnonzero(nuclei.ids == label)[0])
        x0, y0, x1, y1 = nuclei.boxes[place].tolist()
        window, shape = (slice(y0, y1), slice(x0, x1)), nuclei.masks[place]
        if np.count_nonzero(mask[window] & shape) > max_lost * np.count_nonzero(shape):
            labels[window][shape & (labels[window] == label)] = 0
    labels[mask] = current[mask]
    return labels


def beside(labels: LabelImage, index: Index) -> list[LabelImage]:
    """Labels of the planes before and after one of a stack."""
    near = [(*index[:-1], index[-1] + step) for step in (-1, 1)] if index else []
    return [labels[i] for i in near if 0 <= i[-1] < labels.shape[len(index) - 1]]
