"""Seconds until each step of a detection is shown, beside the network's own.

``xvfb-run -a -s "-screen 0 1600x1000x24" python benchmarks/inspect_steps.py``
"""

from __future__ import annotations

import time

import napari
from qtpy.QtWidgets import QApplication

import measure
from napari_deepretina import load_model, segment
from napari_deepretina._widgets.step_layers import StepLayers
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.inspection import STEPS
from napari_deepretina.inspection.figures import png, story_figure
from napari_deepretina.inspection.steps import inspect_image
from napari_deepretina.inspection.story import story_of, why_missed


def main() -> None:
    """Print the table."""
    image, truth = synthetic_nuclei((512, 512), 200, diameter=24, seed=2)
    model = load_model("nuclei", "cpu")
    seconds = measure.side_by_side(
        {
            "network": lambda: segment(image, model=model),
            "all steps kept": lambda: inspect_image(model, image),
        }
    )
    inspection = inspect_image(model, image)
    viewer = napari.Viewer()
    viewer.add_image(image)
    steps = StepLayers(viewer, inspection, {"scale": (1, 1), "translate": (0, 0)})
    for step in STEPS:
        begun = time.perf_counter()
        steps.show(step)
        QApplication.processEvents()
        seconds[f"step: {step}"] = time.perf_counter() - begun
    begun = time.perf_counter()
    png(story_figure(story_of(inspection, 1), image))
    seconds["story of a nucleus"] = time.perf_counter() - begun
    inspection.labels[:] = 0
    begun = time.perf_counter()
    why_missed(inspection, 256, 256, truth)
    seconds["story of a missed one"] = time.perf_counter() - begun
    print(f"512×512, {len(inspection.instances)} nuclei, CPU")
    print(measure.table(["what", "seconds"], [[k, f"{v:.2f}"] for k, v in seconds.items()]))
    viewer.close()


if __name__ == "__main__":
    main()
