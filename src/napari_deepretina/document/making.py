"""New documents: of what a run found, and of another document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.data.regions import Region
from napari_deepretina.document.changes import Index
from napari_deepretina.document.document import Document
from napari_deepretina.document.planes import TunedPlane
from napari_deepretina.document.records import Nucleus, better, records_of
from napari_deepretina.instances import Instances, RawInstances
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
