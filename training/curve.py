"""The curves of a run as a picture, as the Train widget draws them.

``QT_QPA_PLATFORM=offscreen python training/curve.py RUN_DIR PICTURE.png``
"""

from __future__ import annotations

import sys
from pathlib import Path

from qtpy.QtWidgets import QApplication

from napari_deepretina._widgets.curves import CurvesWidget
from napari_deepretina.training.watch import RunWatch


def main(run: Path, picture: Path) -> None:
    """Read the run's events, draw, save."""
    app = QApplication.instance() or QApplication([])
    watch = RunWatch(run)
    watch.poll()
    curves = CurvesWidget()
    curves.setStyleSheet("background: white")
    curves.show_curves(watch.curves, watch.total, "#202020")
    curves.resize(560, 240)
    curves.show()
    app.processEvents()
    if not curves.grab().save(str(picture)):
        sys.exit(f"{picture} could not be written")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
