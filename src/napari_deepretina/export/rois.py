"""Outlines as an ImageJ ROI zip, for Fiji's ROI manager."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_deepretina.files import written_whole
from napari_deepretina.instances import Instances


def write_rois(instances: Instances, path: Path) -> None:
    """One polygon an object, named 0001…, along the outer edge of its largest outline."""
    import roifile

    rois = []
    for number, (window, mask) in enumerate(instances, start=1):
        corners = outline(mask) + np.array([window[1].start, window[0].start])
        rois.append(roifile.ImagejRoi.frompoints(corners.astype(np.float32), name=f"{number:04d}"))
    with written_whole(path) as part:
        # roifile chooses the zip form by the suffix
        whole = part.with_suffix(".zip")
        whole.unlink(missing_ok=True)
        if rois:
            roifile.roiwrite(whole, rois)
        else:
            import zipfile

            zipfile.ZipFile(whole, "w").close()
        whole.replace(part)


def outline(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(K, 2) float (x, y) corners of the longest outline, half a pixel level around the mask."""
    from skimage.measure import find_contours

    contours = find_contours(np.pad(mask, 1).astype(float), 0.5)
    longest: NDArray[np.float64] = max(contours, key=len)[:-1]
    # padding shifts by one; pixel centres lie at +0.5 in ImageJ's coordinates
    return longest[:, ::-1] - 0.5
