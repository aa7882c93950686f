"""RawInstances → Instances, again and again while a person moves the sliders."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.instances import Instances, RawInstances
from napari_deepretina.postprocess.masks import place_masks, without_holes
from napari_deepretina.postprocess.nms import survivors
from napari_deepretina.postprocess.original import dilated, finish, merge_views
from napari_deepretina.postprocess.overlaps import resolve_overlaps
from napari_deepretina.postprocess.pairs import Pairs, overlapping_pairs
from napari_deepretina.postprocess.settings import PostprocessSettings
from napari_deepretina.postprocess.votes import Placed, group_views, view_pairs, vote

SCORE_MARGIN = 0.1


def postprocess(raw: RawInstances, settings: PostprocessSettings | None = None) -> Instances:
    """Apply a person's settings to what the network found.

    Score floor, box NMS in each view, mask threshold, votes of the views, holes, dilation, overlaps, areas
    and border, in this order. Objects of different classes do not compete.

    Returns
    -------
    Instances
        Disjoint in each class, highest score first; ``to_labels()`` paints them. ``sources`` are places in
        `raw`.
    """
    return Postprocessor(raw)(settings or PostprocessSettings())


class Postprocessor:
    """`postprocess` for one set of raw detections and many settings: keeps what settings share."""

    def __init__(self, raw: RawInstances) -> None:
        self.raw = raw
        self._overlaps: Pairs | None = None
        self._survivors: tuple[float, NDArray[np.int64]] | None = None
        self._same: tuple[tuple[float, float, float], NDArray[np.int64], Pairs] | None = None
        self._voted: tuple[tuple[int, float, int], dict[bytes, Placed]] | None = None

    def __call__(self, settings: PostprocessSettings) -> Instances:
        """The final instances for one choice of settings."""
        views = min(settings.views or self.raw.view_count, self.raw.view_count)
        votes = settings.votes_of(views)
        kept = self._thin(settings.nms)
        kept = kept[self._wanted(kept, settings.score, views)]
        raw = self.raw[kept]
        if settings.method == "original":
            instances = _original(raw, settings, views, votes)
        else:
            # holes are filled before anything grows over them
            dilation = 0 if settings.fill_holes else settings.dilation
            if views > 1:
                instances = self._vote(kept, raw, settings, views, votes, dilation)
            else:
                instances = _placed(raw, settings.mask_threshold, dilation)
            instances = _resolved(instances, settings)
        instances = _chosen(instances, settings)
        return replace(instances, sources=kept[instances.sources])

    def overlapping(self, settings: PostprocessSettings) -> Instances:
        """As the first view has them, with all pixels that each claims: what COCO's evaluation counts."""
        kept = self._thin(settings.nms)
        found = _placed(self.raw[kept[self._wanted(kept, settings.score, 1)]], settings.mask_threshold)
        return found[found.areas > 0]

    def _wanted(self, places: NDArray[np.int64], score: float, views: int) -> NDArray[np.bool_]:
        wanted: NDArray[np.bool_] = (self.raw.scores[places] >= score) & (self.raw.views[places] < views)
        return wanted

    def _thin(self, nms: float) -> NDArray[np.int64]:
        """Detections that NMS leaves, highest score first.

        Lower scores never suppress higher ones, so this holds for every score floor.
        """
        if self._survivors is None or self._survivors[0] != nms:
            order = np.argsort(-self.raw.scores, kind="stable")
            if nms >= self.raw.thinned:  # the network did so on its own boxes
                self._survivors = nms, order
                return order
            if self._overlaps is None:
                groups = self.raw.views * (int(self.raw.classes.max(initial=0)) + 1) + self.raw.classes
                self._overlaps = overlapping_pairs(self.raw.boxes, groups)
            alive = survivors(self._overlaps.above(nms), self.raw.scores)
            self._survivors = nms, order[alive[order]]
        return self._survivors[1]

    def _vote(
        self,
        kept: NDArray[np.int64],
        raw: RawInstances,
        settings: PostprocessSettings,
        views: int,
        votes: int,
        dilation: int,
    ) -> Instances:
        leader = group_views(raw, self._pairs_of_views(settings, views))
        key = (votes, settings.mask_threshold, dilation)
        known = self._voted[1] if self._voted is not None and self._voted[0] == key else None
        instances, answered = vote(
            raw, leader, votes=votes, mask_threshold=settings.mask_threshold, dilation=dilation,
            known=known, names=kept,
        )  # fmt: skip
        self._voted = key, answered
        return instances

    def _pairs_of_views(self, settings: PostprocessSettings, views: int) -> Pairs:
        """Pairs of the detections wanted; found for a little lower scores too, for a slider's next move."""
        cached = self._same
        same = cached is not None and cached[0][:2] == (settings.nms, settings.merge_iou)
        if cached is None or not same or settings.score < cached[0][2]:
            floor = max(0.0, settings.score - SCORE_MARGIN)
            wide = self._thin(settings.nms)
            wide = wide[self.raw.scores[wide] >= floor]
            found = view_pairs(self.raw[wide], settings.merge_iou)
            cached = self._same = (settings.nms, settings.merge_iou, floor), wide, found
        _, wide, pairs = cached
        wanted = self._wanted(wide, settings.score, views)
        both = wanted[pairs.first] & wanted[pairs.second]
        place = np.cumsum(wanted) - 1
        return Pairs(place[pairs.first[both]], place[pairs.second[both]], pairs.iou[both])


def _placed(raw: RawInstances, mask_threshold: float, dilation: int = 0) -> Instances:
    frames, masks = place_masks(
        raw.masks, raw.boxes, raw.shape, mask_threshold, dilation=dilation, fading=raw.fading
    )
    sources = np.arange(len(raw), dtype=np.int64)
    return Instances(frames, tuple(masks), raw.scores, raw.classes, raw.shape, sources=sources)


def _resolved(instances: Instances, settings: PostprocessSettings) -> Instances:
    """Holes filled if wanted (and only then dilated), every pixel given to one object."""
    if settings.fill_holes:
        instances = instances.with_masks(instances.boxes, [without_holes(m) for m in instances.masks])
        instances = dilated(instances, settings.dilation)
    return resolve_overlaps(instances, max_lost=settings.max_lost)[0]


def _original(raw: RawInstances, settings: PostprocessSettings, views: int, votes: int) -> Instances:
    """As Deep Retina did: see `napari_deepretina.postprocess.original`."""
    placed = _placed(raw, settings.mask_threshold)
    if views > 1:
        each = [placed[raw.views == view] for view in range(views)]
        placed = merge_views(each, votes_above=votes - 1, merge_iou=settings.merge_iou)
    if settings.fill_holes:
        placed = placed.with_masks(placed.boxes, [without_holes(m) for m in placed.masks])
    done = finish(placed, dilation=settings.dilation, threshold=settings.max_lost, by_score=views == 1)
    return done[np.argsort(-done.scores, kind="stable")]


def _chosen(instances: Instances, settings: PostprocessSettings) -> Instances:
    """Those of a wanted size, and not at the border if that is asked for."""
    areas = instances.areas
    keep = areas >= settings.min_area
    if settings.max_area:
        keep &= areas <= settings.max_area
    if settings.drop_border:
        keep &= ~at_border(instances)
    return instances if keep.all() else instances[keep]


def at_border(instances: Instances) -> NDArray[np.bool_]:
    """(N,) bool: which objects have a pixel on the image's border."""
    height, width = instances.shape
    found = np.zeros(len(instances), bool)
    for i, ((x0, y0, x1, y1), mask) in enumerate(zip(instances.boxes.tolist(), instances.masks, strict=True)):
        found[i] = (
            (y0 == 0 and mask[0].any())
            or (x0 == 0 and mask[:, 0].any())
            or (y1 == height and mask[-1].any())
            or (x1 == width and mask[:, -1].any())
        )
    return found
