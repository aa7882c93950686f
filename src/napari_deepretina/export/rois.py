"""Outlines as an ImageJ ROI zip, for Fiji's ROI manager."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from napari_deepretina.export.outlines import outlines
from napari_deepretina.files import written_whole
from napari_deepretina.instances import Instances


def write_rois(instances: Instances, path: Path) -> None:
    """One polygon an object, named 0001…, along the outer edge of its largest piece."""
    import roifile

    rois = []
    for number, (window, mask) in enumerate(instances, start=1):
        corners = outlines(mask)[0] + np.array([window[1].start, window[0].start])
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
