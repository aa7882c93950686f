"""New documents: of what a run found, and of another document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

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
) -> Document:
    """The document of what a run found.

    Parameters
    ----------
    labels : (…, H, W) int32.
    made : by plane, its raw detections, the nuclei made of them, and the ids that these have in `labels`.
        Planes without raw detections cannot be tuned.
    settings, classes, link : as for `Document`.
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
    return Document(labels, settings, planes, classes=classes, nuclei=nuclei, link=link)


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
    )
    twin.last_id = document.last_id
    return twin
