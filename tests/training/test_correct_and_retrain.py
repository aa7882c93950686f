"""Ten corrected images of a kind that the bundled weights do not know teach it to them."""

import numpy as np
import pytest
from scipy import ndimage

from napari_deepretina import segment
from napari_deepretina.data.project import Project
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.evaluation.matching import match
from napari_deepretina.evaluation.scores import score_image
from napari_deepretina.training.asked import Asked
from napari_deepretina.training.run import plan_training


def membranes(seed, side=160):
    """Nuclei that only their bright rims tell from a grainy ground."""
    _, labels = synthetic_nuclei((side, side), 22, diameter=26, seed=seed)
    inner = np.zeros(labels.shape, bool)
    for label in range(1, labels.max() + 1):
        inner |= ndimage.binary_erosion(labels == label, iterations=2)
    rim = ((labels > 0) & ~inner).astype(float)
    rng = np.random.default_rng(seed)
    grain = ndimage.gaussian_filter(rng.standard_normal(labels.shape), 2)
    image = 0.35 + 0.08 * grain / grain.std() * (labels == 0) + 0.45 * ndimage.gaussian_filter(rim, 0.8)
    image += rng.normal(0, 0.03, labels.shape)
    return (np.clip(image, 0, 1) * 255).astype(np.uint8), labels


def score(weights, image, labels):
    found, _ = segment(image, weights=weights, device="cpu")
    return score_image(match(labels, found), "held out").dsb_score


@pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore:.*tensorboard.*:DeprecationWarning")
def test_ten_corrected_images_teach_a_new_kind(tmp_path):
    project = Project(tmp_path / "project")
    for seed in range(10):
        project.add(f"corrected {seed}", *membranes(seed))
    overrides = ["main.steps=14", "main.crop=192"]
    plan = plan_training(
        Asked(recipe="fine-tune", data=[str(project.folder)], weights="nuclei-small", overrides=overrides)
    )
    weights = plan.run(tmp_path / "run", device="cpu")
    held_out = membranes(99)
    learnt, before = score(str(weights), *held_out), score("nuclei-small", *held_out)
    assert learnt > before + 0.2
