"""Outlines as an ImageJ ROI zip, for Fiji's ROI manager."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.export.outlines import outlines, rings
from napari_deepretina.files import written_whole
from napari_deepretina.instances import Instances

MOVE, LINE, CLOSE = 0.0, 1.0, 4.0
"""Steps of a path in ImageJ's composite ROIs."""


def write_rois(
    instances: Instances | Mapping[int, Instances], path: Path, *, plane: int | None = None
) -> None:
    """One ROI an object, called by the id that it has in the label image.

    An object in one piece without holes is a polygon, any other one a composite of all its pieces and holes.

    Parameters
    ----------
    instances : of one plane, or by plane those of a stack; an object has a ROI in each of its planes then.
    plane : of a stack, counted from 0, that the objects lie in; ImageJ shows them there only.
    """
    planes: list[tuple[int | None, Instances]]
    planes = [(plane, instances)] if isinstance(instances, Instances) else [*instances.items()]
    with written_whole(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for place, found in planes:
            before = "" if isinstance(instances, Instances) else f"{place:04d}-"
            for number, (window, mask) in zip(found.ids.tolist(), found, strict=True):
                name = f"{number:04d}"
                roi = _roi(mask, (window[1].start, window[0].start), name)
                if place is not None:
                    roi.position = place + 1
                archive.writestr(f"{before}{name}.roi", roi.tobytes())


def _roi(mask: NDArray[np.bool_], corner: tuple[int, int], name: str) -> Any:
    import roifile

    outer, holes = outlines(mask), rings(mask, holes=True)
    if len(outer) == 1 and not holes:
        return roifile.ImagejRoi.frompoints((outer[0] + corner).astype(np.float32), name=name)
    path: list[float] = []
    for ring in [*outer, *holes]:
        for step, (x, y) in zip([MOVE, *[LINE] * (len(ring) - 1)], (ring + corner).tolist(), strict=True):
            path += [step, x, y]
        path.append(CLOSE)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    roi = roifile.ImagejRoi()
    roi.version, roi.name = 227, name
    roi.roitype = roifile.ROI_TYPE.RECT
    roi.left, roi.top = int(corner[0] + columns[0]), int(corner[1] + rows[0])
    roi.right, roi.bottom = int(corner[0] + columns[-1] + 1), int(corner[1] + rows[-1] + 1)
    roi.multi_coordinates = np.array(path, np.float32)
    roi.shape_roi_size = len(path)
    return roi
