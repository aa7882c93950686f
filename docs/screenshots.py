"""Take the pictures in this folder: a real napari window, used as a person would.

``xvfb-run -a -s "-screen 0 1600x1000x24" python docs/screenshots.py [IMAGE] [--out DIR]``

IMAGE is any microscopy image; by default the pictures show images of the data sets in ``../shared/data``,
where they are, else synthetic ones.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
from PIL import Image
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QPushButton, QWidget

from napari_deepretina.data.synthetic import synthetic_nuclei


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


def save(pixels: np.ndarray, path: Path, size: int = 1200) -> None:
    """A small picture."""
    picture = Image.fromarray(pixels[..., :3])
    picture.thumbnail((size, size), Image.Resampling.LANCZOS)
    picture.quantize(200).save(path, optimize=True)
    print(path, picture.size)


def shoot(viewer: napari.Viewer, path: Path) -> None:
    """The whole window."""
    pause(0.5)
    save(viewer.screenshot(canvas_only=False, flash=False), path)


def press(widget: QWidget, name: str) -> None:
    """Click a button by its object name."""
    QTest.mouseClick(widget.findChild(QPushButton, name), Qt.MouseButton.LeftButton)


DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def real(stem: str, number: int, *, dark: bool = False) -> tuple[np.ndarray, np.ndarray] | None:
    """An image of a validation part with its nuclei, the fullest first; None where there are no data."""
    from napari_deepretina.data import open_dataset

    path = DATA / f"{stem}.zip"
    if not path.exists():
        return None
    data, split = open_dataset(str(path))
    chosen = [name for name in data.names if split is None or name in set(split.part("val"))]
    samples = [data[list(data.names).index(name)] for name in chosen[:24]]
    samples = [s for s in samples if min(s.image.shape[:2]) >= 400] or samples
    if dark:
        samples = [s for s in samples if s.image.mean() < 60]
    samples.sort(key=lambda s: -len(np.unique(s.labels)))
    sample = samples[min(number, len(samples) - 1)]
    return sample.image, sample.labels


def field(number: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Fluorescent nuclei, real where the data are."""
    found = real("stage1_train_pairs", number, dark=True)
    if found is None:
        return synthetic_nuclei((400, 512), 60, diameter=28, seed=4 + number)
    image, labels = found
    return (image[..., 0] if image.ndim == 3 else image), labels


def tissue(number: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Stained nuclei, real where the data are."""
    return real("open/tnbc", number) or synthetic_nuclei((256, 256), 30, kind="tissue", seed=number)


def segment(viewer: napari.Viewer, image: str | None, out: Path) -> QWidget:
    """Error, mid-run and result of the Segment widget."""
    _, widget = viewer.window.add_plugin_dock_widget("napari-deepretina", "Segment nuclei")
    press(widget, "run")
    pause(2.0)
    shoot(viewer, out / "segment-error.png")
    if image:
        viewer.open(image)
    else:
        viewer.add_image(field()[0], name="nuclei", scale=(0.32, 0.32), units=("um", "um"))
    pause(0.5)
    press(widget, "run")
    wait_for(lambda: widget.box.bar.value() > 40)
    shoot(viewer, out / "segment-running.png")
    wait_for(lambda: widget.box.button.text() == "Run")
    pause(6)  # until the notification has gone
    shoot(viewer, out / "segment-result.png")
    return widget


def tune(viewer: napari.Viewer, panel: Any, out: Path) -> None:
    """Tune in use, labels following a slider, and the review table."""
    panel.views.value = "flips"
    press(panel, "run")
    wait_for(lambda: panel.box.button.text() == "Cancel")
    wait_for(lambda: panel.box.button.text() == "Run")
    viewer.window.remove_dock_widget("all")
    _, widget = viewer.window.add_plugin_dock_widget("napari-deepretina", "Tune")
    pause(6)
    shoot(viewer, out / "tune-sliders.png")
    frames = []
    for score in (0.99, 0.98, 0.97, 0.6):
        widget.controls["score"].value = score
        pause(0.5)
        frames.append(viewer.screenshot(canvas_only=True, flash=False)[..., :3])
    save(np.concatenate(frames, axis=1), out / "tune-series.png", 1600)
    widget.tabs.setCurrentIndex(1)
    press(widget, "next")
    press(widget, "accept")
    pause(1)
    shoot(viewer, out / "tune-review.png")


def remedies(viewer: napari.Viewer, out: Path) -> None:
    """Few nuclei found, what is offered, a region, and the page of help."""
    viewer.window.remove_dock_widget("all")
    viewer.layers.clear()
    viewer.open_sample("napari-deepretina", "immunohistochemistry")
    _, widget = viewer.window.add_plugin_dock_widget("napari-deepretina", "Segment nuclei")
    widget.specialist.value = "always"  # in colour, in which brown hides nuclei
    press(widget, "run")
    wait_for(lambda: widget.box.button.text() == "Run")
    pause(6)
    shoot(viewer, out / "segment-few.png")
    widget.specialist.value = "auto"
    viewer.layers.clear()
    viewer.add_image(field(1)[0], name="nuclei")
    corners = np.array([[60, 60], [60, 330], [300, 380], [340, 120]])
    viewer.add_shapes(
        [corners], shape_type="polygon", name="regions", edge_color="yellow", face_color="transparent",
        edge_width=3, features={"name": ["colony"]},
    )  # fmt: skip
    widget.image.value, widget.region.value = "nuclei", str(viewer.layers["regions"].unique_id)
    press(widget, "run")
    wait_for(lambda: widget.box.button.text() == "Run")
    pause(6)
    shoot(viewer, out / "segment-region.png")
    widget.region.value = "whole image"


def train(viewer: napari.Viewer, out: Path) -> None:
    """A run from three annotated layers: in its midst and at its end."""
    viewer.window.remove_dock_widget("all")
    viewer.layers.clear()
    _, widget = viewer.window.add_plugin_dock_widget("napari-deepretina", "Train")
    for number in range(3):
        image, labels = tissue(number)
        viewer.add_image(image, name=f"field {number + 1}", rgb=True)
        viewer.add_labels(labels, name=f"corrected {number + 1}")
        widget.image.value, widget.labels.value = f"field {number + 1}", f"corrected {number + 1}"
        press(widget, "add_layers")
    widget.name.value = "my-tissue"
    widget.options.value = "main.steps=60 validate_every=15 log_every=2"
    press(widget, "start")
    wait_for(lambda: len(widget.run.curves["score"]) == 3 and widget.run.step > 35, 300)
    pause(6)
    shoot(viewer, out / "train-running.png")
    wait_for(lambda: widget.run.over, 300)
    pause(8)
    shoot(viewer, out / "train-done.png")


def inspect(viewer: napari.Viewer, image: str | None, out: Path) -> None:
    """Every tab of Inspect."""
    viewer.window.remove_dock_widget("all")
    viewer.layers.clear()
    pixels, truth = field(1)
    name = viewer.open(image)[0].name if image else viewer.add_image(pixels, name="field").name
    if not image:
        viewer.add_labels(truth, name="truth", visible=False)
    _, widget = viewer.window.add_plugin_dock_widget("napari-deepretina", "Inspect")
    widget.image.value = name
    press(widget, "run")
    wait_for(lambda: widget.steps is not None)
    pause(5)
    for step in (0, 2, 6):
        widget.slider.setValue(step)
        pause(0.5)
        shoot(viewer, out / f"inspect-step-{step + 1}.png")
    widget.slider.setValue(8)
    labels = widget.steps.inspection.labels
    y, x = (int(v[len(v) // 2]) for v in np.nonzero(labels == 5))
    widget.tell(y, x)
    shoot(viewer, out / "inspect-story.png")
    widget.tabs.setCurrentIndex(1)
    press(widget, "show_map")
    shoot(viewer, out / "inspect-activations.png")
    viewer.layers.remove(viewer.layers[-1])
    widget.tabs.setCurrentIndex(2)
    press(widget, "look_at_weights")
    wait_for(lambda: widget.weights_picture.pixmap.width() > 0)
    pause(5)
    shoot(viewer, out / "inspect-weights.png")
    widget.tabs.setCurrentIndex(3)
    widget.path.value = "toy-shapes"
    press(widget, "look_at_data")
    wait_for(lambda: widget.data_picture.pixmap.width() > 0)
    pause(5)
    shoot(viewer, out / "inspect-data.png")
    if not image:
        widget.tabs.setCurrentIndex(4)
        viewer.add_labels(labels, name="prediction", visible=False)
        widget.truth.value, widget.predicted.value = "truth", "prediction"
        press(widget, "look_at_errors")
        wait_for(lambda: widget.errors_picture.pixmap.width() > 0)
        pause(5)
        shoot(viewer, out / "inspect-errors.png")
        widget.tabs.setCurrentIndex(5)
        widget.learning.truth.value = "truth"
        press(widget, "show_learning")
        wait_for(lambda: "Anchors:" in widget.learning.told.text())
        pause(5)
        shoot(viewer, out / "inspect-training.png")


def large(viewer: napari.Viewer, out: Path) -> None:
    """A lazy image of 8192² pixels: labels come while a person pans, Cancel keeps them, Run goes on.

    Prints how long the event loop was busy at a time: what a hand on the mouse feels.
    """
    import dask.array

    viewer.window.remove_dock_widget("all")
    viewer.layers.clear()
    tile = dask.array.from_array(field()[0], chunks=512)
    slide = dask.array.tile(tile, tuple(-(-8192 // n) for n in tile.shape))[:8192, :8192].rechunk(512)
    levels = [slide, slide[::4, ::4], slide[::16, ::16]]
    viewer.add_image(levels, name="slide", contrast_limits=(0, 255), multiscale=True)
    _, widget = viewer.window.add_plugin_dock_widget("napari-deepretina", "Segment nuclei")
    camera = viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera
    camera.zoom *= 3
    press(widget, "run")
    wait_for(lambda: "slide so far" in viewer.layers)
    waits: list[float] = []
    begun = last = time.monotonic()
    while time.monotonic() - begun < 60:
        turn = time.monotonic() - begun
        camera.center = (0, 1200 + 500 * np.sin(turn / 3), 4000 - 2500 * np.cos(turn / 5))
        QApplication.processEvents()
        waits.append(time.monotonic() - last)
        last = time.monotonic()
        time.sleep(0.01)
    shoot(viewer, out / "large-running.png")
    milliseconds = np.array(waits) * 1000
    told = ", ".join(f"{q} %: {np.percentile(milliseconds, q):.0f}" for q in (50, 99, 99.9, 100))
    slow = int((milliseconds > 200).sum())
    print(f"event loop, {len(waits)} turns in 60 s, milliseconds: {told}; {slow} over 200")
    press(widget, "run")
    wait_for(lambda: widget.box.button.text() == "Run")
    pause(5)
    shoot(viewer, out / "large-cancelled.png")
    print(widget.box.status.text())


def stack(viewer: napari.Viewer, out: Path) -> None:
    """A movie with tracks, and a folder."""
    viewer.window.remove_dock_widget("all")
    viewer.layers.clear()
    image = field(2)[0]
    movie = np.stack([np.roll(image, 2 * k, axis=1) for k in range(6)])
    viewer.add_image(movie, name="movie", axis_labels=("t", "y", "x"))
    _, widget = viewer.window.add_plugin_dock_widget("napari-deepretina", "Segment nuclei")
    widget.stack.planes.value, widget.stack.link.value = "all", 0.3
    press(widget, "run")
    wait_for(lambda: widget.box.button.text() == "Run")
    pause(5)
    shoot(viewer, out / "stack-tracks.png")
    with tempfile.TemporaryDirectory() as folder:
        for k, frame in enumerate(movie):
            Image.fromarray(frame).save(Path(folder) / f"field_{k}.png")
        widget.tabs.setCurrentIndex(1)
        widget.folder.folder.value = folder
        pause(1)
        press(widget, "run_folder")
        wait_for(lambda: widget.folder.box.worker is not None)
        wait_for(lambda: widget.folder.box.button.text() == "Segment all")
        for _ in range(2):
            press(widget, "image_done" if widget.folder.steps.number >= 0 else "next_image")
            wait_for(lambda: widget.folder.box.worker is None and widget.box.worker is None)
        pause(6)
        shoot(viewer, out / "folder-done.png")


def teach(viewer: napari.Viewer, out: Path) -> None:
    """A stain that the weights do not know: as they find it, corrected here and there, and after teaching."""
    from napari_deepretina.data import open_dataset
    from napari_deepretina.evaluation import match

    path = DATA / "open" / "nuinsseg.zip"
    if path.exists():
        data, _ = open_dataset(str(path))
        sample = data[list(data.names).index("mouse_kidney_04")]
        image, truth = sample.image, sample.labels
    else:
        image, truth = synthetic_nuclei((512, 512), 90, kind="tissue", seed=3)
    viewer.add_image(image, name="kidney")
    _, panel = viewer.window.add_plugin_dock_widget("napari-deepretina", "Segment nuclei")
    press(panel, "run")
    wait_for(lambda: panel.box.button.text() == "Run" and len(viewer.layers) > 1)
    viewer.window.remove_dock_widget("all")
    _, widget = viewer.window.add_plugin_dock_widget("napari-deepretina", "Tune")
    widget.tabs.setCurrentIndex(1)
    layer = viewer.layers["kidney nuclei"]
    viewer.window.resize(1280, 720)
    viewer.reset_view()
    pause(7)
    shoot(viewer, out / "teach-before.png")
    matched = match(truth, layer.data)
    document = widget.review.view.document
    for label in matched.missed()[:14].tolist():
        layer.data_setitem(np.nonzero((truth == label) & (layer.data == 0)), document.last_id + 1)
        pause(0.05)
    for label in matched.extra()[:4].tolist():
        if document.is_present(label):
            widget.review.choose(label)
            press(widget, "delete")
    for label in matched.hits(0.7)[:4, 1].tolist():
        widget.review.choose(label)
        press(widget, "accept")
    widget.review.choose(0)
    viewer.reset_view()
    pause(1)
    shoot(viewer, out / "teach-corrected.png")
    press(widget, "teach")
    wait_for(lambda: widget.box.bar.value() > 40)
    shoot(viewer, out / "teach-running.png")
    wait_for(lambda: widget.box.worker is None)
    pause(7)
    shoot(viewer, out / "teach-after.png")


def main() -> None:
    """All pictures, or those of one widget."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", nargs="?")
    parser.add_argument("--only", choices=["tune", "remedies", "train", "inspect", "large", "stack", "teach"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    viewer = napari.Viewer()
    viewer.window.resize(1500, 950)
    if arguments.only in (None, "tune"):
        tune(viewer, segment(viewer, arguments.image, arguments.out), arguments.out)
    if arguments.only in (None, "remedies"):
        remedies(viewer, arguments.out)
    if arguments.only in (None, "train"):
        train(viewer, arguments.out)
    if arguments.only in (None, "inspect"):
        inspect(viewer, arguments.image, arguments.out)
    if arguments.only in (None, "stack"):
        stack(viewer, arguments.out)
    if arguments.only in (None, "teach"):
        teach(viewer, arguments.out)
    if arguments.only in (None, "large"):
        large(viewer, arguments.out)
    viewer.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:  # nobody's settings and runs
        os.environ |= {
            "HOME": home,
            "XDG_DATA_HOME": f"{home}/.local/share",
            "XDG_CACHE_HOME": f"{home}/cache",
        }
        main()
