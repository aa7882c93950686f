"""Take the pictures in this folder: a real napari window, used as a person would.

``xvfb-run -a -s "-screen 0 1600x1000x24" python docs/screenshots.py [IMAGE] [--out DIR]``

IMAGE is any microscopy image; without one the synthetic sample is used.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import napari
from PIL import Image
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QPushButton


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Let Qt work until something is true."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the window did not get there")
        QApplication.processEvents()
        time.sleep(0.01)


def pause(seconds: float) -> None:
    """Let Qt work for a while."""
    end = time.monotonic() + seconds
    wait_for(lambda: time.monotonic() > end)


def shoot(viewer: napari.Viewer, path: Path) -> None:
    """The whole window, reduced to a small picture."""
    pause(0.5)
    pixels = viewer.screenshot(canvas_only=False, flash=False)[..., :3]
    picture = Image.fromarray(pixels)
    picture.thumbnail((1200, 1200), Image.Resampling.LANCZOS)
    picture.quantize(128).save(path, optimize=True)
    print(path, picture.size)


def main() -> None:
    """Error, mid-run and result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", nargs="?")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    viewer = napari.Viewer()
    viewer.window.resize(1500, 950)
    _, widget = viewer.window.add_plugin_dock_widget("napari-deepretina", "Segment nuclei")
    button = widget.findChild(QPushButton, "run")

    def click() -> None:
        QTest.mouseClick(button, Qt.MouseButton.LeftButton)

    click()
    pause(2.0)
    shoot(viewer, arguments.out / "segment-error.png")
    if arguments.image:
        viewer.open(arguments.image)
    else:
        viewer.open_sample("napari-deepretina", "fluorescence")
    pause(0.5)
    click()
    wait_for(lambda: widget.box.bar.value() > 40)
    shoot(viewer, arguments.out / "segment-running.png")
    wait_for(lambda: button.text() == "Run")
    pause(6)  # until the notification has gone
    shoot(viewer, arguments.out / "segment-result.png")
    viewer.close()


if __name__ == "__main__":
    main()
