"""An image that a network was taught with, once for all tests."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from napari_deepretina.data.synthetic import synthetic_nuclei


@dataclass
class Taught:
    """An image, its truth, what the network made of it, corrections, and what they led to."""

    image: Any
    truth: Any
    found: Any
    corrections: Any
    material: Any
    teacher: Any
    lessons: Any
    settings: Any


@pytest.fixture(autouse=True, scope="session")
def _few_steps():
    """What is tested does not need the last percent."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("napari_deepretina.teaching.learning.STEPS", 40)
        patch.setattr("napari_deepretina.teaching.learning.MORE", 10)
        yield


@pytest.fixture(scope="session")
def scene(nuclei_model):
    """A noisy image of whose nuclei the network finds half, its truth and the network's answer."""
    from napari_deepretina.inference.segment import segment

    image, truth = synthetic_nuclei((256, 256), 24, diameter=26, kind="tissue", seed=6)
    noise = np.random.default_rng(0).normal(120, 25, image.shape)
    image = (0.3 * image + noise).clip(0, 255).astype(np.uint8)
    return image, truth, segment(image, model=nuclei_model, specialist="never")


@pytest.fixture(scope="session")
def corrections(scene):
    """Nuclei 1 to 12 are right, those that were found and those that were not; one detection is wrong."""
    from napari_deepretina.teaching.corrections import Corrections

    _, truth, _ = scene
    labels = np.where(truth <= 12, truth, 0).astype(np.int32)
    return Corrections(
        labels, np.arange(1, 13), np.zeros(0, np.int64), np.array([[0, 0, 12, 12]], np.float32)
    )


@pytest.fixture(scope="session")
def taught(scene, corrections, nuclei_model):
    from napari_deepretina.inference.steps import drain
    from napari_deepretina.teaching.material import material_of
    from napari_deepretina.teaching.teach import Teacher

    image, truth, found = scene
    teacher = Teacher(nuclei_model)
    material = material_of(image, corrections, nuclei_model, found)
    settings = found.settings.postprocessing(nuclei_model.info)
    lessons = drain(teacher.teach([material], settings))
    return Taught(image, truth, found, corrections, material, teacher, lessons, settings)
