"""New documents: of what a run found, and of another document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.data.regions import Region
from napari_deepretina.document.changes import Index
from napari_deepretina.document.document import Document
from napari_deepretina.document.planes import TunedPlane, laid_over
from napari_deepretina.document.records import Nucleus, better, records_of
from napari_deepretina.evaluation import match
from napari_deepretina.instances import Instances, RawInstances
from napari_deepretina.instances.labels import bounding_boxes
from napari_deepretina.postprocess import postprocess
from napari_deepretina.postprocess.pairs import nearest_of
from napari_deepretina.postprocess.settings import PostprocessSettings


def of_result(
    labels: NDArray[np.integer],
    made: Mapping[Index, tuple[RawInstances | None, Instances, NDArray[np.integer]]],
    settings: PostprocessSettings,
    classes: Sequence[str] = ("nucleus",),
    link: float = 0,
    regions: Sequence[Region] = (),
) -> Document:
    """The document of what a run found.

    Parameters
    ----------
    labels : (…, H, W) int32.
    made : by plane, its raw detections, the nuclei made of them, and the ids that these have in `labels`.
        Planes without raw detections cannot be tuned.
    settings, classes, link, regions : as for `Document`.
    """
    nuclei: dict[int, Nucleus] = {}
    for _, instances, ids in made.values():
        for label, record in records_of(instances, ids).items():
            nuclei[label] = better(record, nuclei.get(label))
    planes = {
        index: TunedPlane(raw, instances.sources, ids)
        for index, (raw, instances, ids) in made.items()
        if raw is not None
    }
    return Document(labels, settings, planes, classes=classes, nuclei=nuclei, link=link, regions=regions)


def copied(document: Document) -> Document:
    """The same nuclei, settings and ids, without a history; the two share only raw detections."""
    planes = {}
    for index, plane in document.planes.items():
        led = np.flatnonzero(plane.id_of)
        planes[index] = TunedPlane(plane.raw, led, plane.id_of[led])
    settings_of = {index: document.settings_of(index) for index in document.planes}
    twin = Document(
        document.labels,
        document.settings,
        planes,
        classes=document.classes,
        nuclei=document.nuclei,
        settings_of=settings_of,
        link=document.link,
        regions=document.regions,
    )
    twin.last_id = document.last_id
    return twin


AGAIN, SAME = 0.4, 0.5
"""IoU of boxes from which on a detection is one that was deleted, or a nucleus that a person worked on."""
UNCHANGED = 0.9
"""IoU from which on an outline counts as the same."""


def seen_anew(
    document: Document, seen: Mapping[Index, RawInstances]
) -> tuple[Document, dict[str, frozenset[int]]]:
    """The document after a newer look at some planes, by other weights.

    What a person accepted, edited, drew or deleted stays as it is. Nuclei found again keep their ids.

    Parameters
    ----------
    seen : by plane, the raw detections of the newer look.

    Returns
    -------
    a document without a history, and ids by what became of them: ``new``, ``changed`` in outline, ``gone``.
    """
    twin = copied(document)
    before = twin.nuclei
    staying = np.array([i for i, nucleus in before.items() if nucleus.stays], np.int64)
    labels, nuclei, planes = document.labels.copy(), dict(before), dict(twin.planes)
    told: dict[str, set[int]] = {"new": set(), "changed": set(), "gone": set()}
    for index, raw in seen.items():
        current = document.labels[index]
        chosen = document.settings_of(index) if index in document.planes else document.settings
        found = postprocess(raw, chosen)
        id_of = _worked_on(document, index, raw, staying)
        free = found[np.flatnonzero(id_of[found.sources] == 0)]
        untouched = np.where(np.isin(current, staying), 0, current)
        matched = match(untouched, free.to_labels())
        ids = np.zeros(len(free), np.int64)
        for old, k in matched.hits(0.5).tolist():
            ids[k - 1] = old
        fresh = np.flatnonzero(ids == 0)
        ids[fresh] = [twin.new_id() for _ in fresh]
        free = replace(free, ids=ids)
        labels[index] = laid_over(current, staying, free, chosen.max_lost)
        id_of[free.sources] = ids
        planes[index] = TunedPlane(raw, np.flatnonzero(id_of), id_of[id_of > 0])
        nuclei |= records_of(free, ids)
        there = set(np.unique(labels[index]).tolist())
        alike = match(untouched, np.where(np.isin(labels[index], staying), 0, labels[index]))
        same = {old for old, new in alike.hits(UNCHANGED).tolist() if old == new}
        told["new"] |= set(ids[fresh].tolist()) & there
        told["changed"] |= (set(alike.true_ids.tolist()) & there) - same
    present = set(np.unique(labels).tolist())
    told["gone"] = {i for i in before if i not in present and before[i].state != "deleted"}
    nuclei = {i: n for i, n in nuclei.items() if i in present or n.state == "deleted"}
    anew = Document(
        labels,
        document.settings,
        planes,
        classes=document.classes,
        nuclei=nuclei,
        settings_of={i: document.settings_of(i) for i in document.planes},
        link=document.link,
        regions=document.regions,
    )
    anew.last_id = max(anew.last_id, twin.last_id)
    return anew, {what: frozenset(ids) for what, ids in told.items()}


def _worked_on(
    document: Document, index: Index, raw: RawInstances, staying: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(len(raw),) ids of nuclei that a person worked on and that detections stand for; 0 for none."""
    ids, boxes = bounding_boxes(document.labels[index])
    mine = np.isin(ids, staying)
    known, where = ids[mine], boxes[mine].astype(np.float32)
    id_of = np.zeros(len(raw), np.int64)
    deleted = np.array([i for i, n in document.nuclei.items() if n.state == "deleted"], np.int64)
    plane = document.planes.get(index)
    gone = np.zeros((0, 4), np.float32)
    if plane is not None:
        led = np.flatnonzero(np.isin(plane.id_of, deleted))
        gone, deleted = plane.raw.boxes[led], plane.id_of[led].astype(np.int64)
    for others, names, least in ((gone, deleted, AGAIN), (where, known, SAME)):
        iou, place = nearest_of(raw.boxes, others)
        id_of[iou >= least] = names[place[iou >= least]]
    return id_of


def with_planes(old: Document, new: Document, indices: Sequence[Index]) -> Document:
    """A stack's document in which some planes are those of a newer one; the others stay as they are.

    Parameters
    ----------
    old, new : of the same shape.
    indices : planes to take from `new`; its nuclei get ids above all of the old ones.
    """
    labels, above = old.labels.copy(), old.last_id
    for index in indices:
        labels[index] = np.where(new.labels[index] > 0, new.labels[index] + above, 0)
    present = set(np.unique(labels).tolist())
    nuclei = {i: n for i, n in old.nuclei.items() if i in present or n.state == "deleted"}
    nuclei |= {i + above: n for i, n in new.nuclei.items()}
    planes, settings_of = {}, {}
    for source, chosen, shift in (
        (old, [i for i in old.planes if i not in indices], 0),
        (new, [i for i in new.planes if i in indices], above),
    ):
        for index in chosen:
            plane = source.planes[index]
            led = np.flatnonzero(plane.id_of)
            planes[index] = TunedPlane(plane.raw, led, plane.id_of[led] + shift)
            settings_of[index] = source.settings_of(index)
    joined = Document(
        labels,
        new.settings,
        planes,
        classes=new.classes,
        nuclei=nuclei,
        settings_of=settings_of,
        link=new.link,
        regions=new.regions,
    )
    joined.last_id = max(joined.last_id, above + new.last_id)
    return joined
