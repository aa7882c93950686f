"""Deep Retina's augmentation with the draws that the original program recorded."""

import json
from pathlib import Path

import numpy as np
import pytest

from napari_deepretina.data.augment import OriginalView, original_crop

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference"
SIZE = 128


@pytest.fixture(scope="module")
def reference():
    if not (REFERENCE / "training_reference.npz").is_file():
        pytest.skip("../shared/reference is not here")
    draws = json.loads((REFERENCE / "training_reference.json").read_text())["aug"]
    return np.load(REFERENCE / "training_reference.npz"), draws


def view_of(case):
    """The recorded draws, in the order in which the original makes them, and the channel shifts."""
    scale, axis, stretch, y, x, left_right, up_down, coin, turned, *rest = (d[2] for d in case["draws"])
    quarters = (1, 2, 3, 0)[int(coin * 4)]
    degrees = rest[0] if turned > 0.5 else 0.0
    scales = (scale, scale * stretch) if axis > 0.5 else (scale * stretch, scale)
    view = OriginalView(scales, (int(y), int(x)), bool(left_right), bool(up_down), quarters, degrees)
    return view, np.array(rest[-3:])


@pytest.mark.parametrize("number", range(6))
def test_the_same_draws_give_the_originals_crop(reference, number):
    file, cases = reference
    masks = np.unpackbits(file["aug_masks_packed"])
    shape = file["aug_masks_shape"]
    masks = masks[: shape.prod()].reshape(shape).astype(bool)
    pixels = file["aug_image"].astype(np.float32)
    view, shifts = view_of(cases[number])
    image, _ = original_crop(pixels, masks[..., 0].astype(np.int32), SIZE, view)
    ours = np.clip(image.numpy().transpose(1, 2, 0) + shifts, float(image.min()), float(image.max()))
    theirs = file[f"aug{number}_image"]
    difference = np.abs(ours - theirs)  # of 255
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > (0.97 if view.degrees else 0.997)
    assert np.median(difference) < (3 if view.degrees else 2)

    boxes = []
    for k in range(shape[2]):  # one by one, for these masks overlap
        _, seen = original_crop(pixels, masks[..., k].astype(np.int32), SIZE, view)
        ys, xs = np.nonzero(seen)
        if len(ys):
            boxes.append((ys.min(), xs.min(), ys.max() + 1, xs.max() + 1))
    expected = file[f"aug{number}_bbox"]
    assert len(boxes) == len(expected)
    off = np.abs(np.array(boxes) - expected)
    assert off.max() <= (3 if view.degrees else 1)
    assert off.mean() < (1 if view.degrees else 0.2)
