import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_deepretina.errors import UserError
from napari_deepretina.inference.molding import masks_from_view, mold, view_of
from napari_deepretina.inference.views import PRESETS, View, resolve_views, shift_channels
from napari_deepretina.instances import RawInstances

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference"
EVERY_VIEW = [pytest.param(v, id=f"{name}-{i}") for name, vs in PRESETS.items() for i, v in enumerate(vs)]


@pytest.fixture(scope="module")
def reference():
    if not (REFERENCE / "deepretina_reference.npz").is_file():
        pytest.skip("the outputs of the original are not here")
    told = json.loads((REFERENCE / "deepretina_reference.json").read_text())
    return np.load(REFERENCE / "deepretina_reference.npz"), told


def stack(file, name):
    shape = tuple(file[f"{name}_shape"])
    return np.unpackbits(file[f"{name}_packed"])[: np.prod(shape)].reshape(shape).astype(bool)


def test_presets():
    assert {name: len(views) for name, views in PRESETS.items()} == {
        "none": 1, "flips": 4, "flips-rotations": 8, "deep-retina": 15,
    }  # fmt: skip
    image = np.arange(12).reshape(3, 4)
    different = {v.orient(image).tobytes() + bytes(v.size((3, 4))) for v in PRESETS["flips-rotations"]}
    assert len(different) == 8


def test_the_fifteen_views_are_those_of_the_original(reference):
    told = reference[1]["tta_options_flipud_fliplr_rot90_shiftUNUSED_hratio_wratio"]
    ours = [
        [v.flip_ud, v.flip_lr, v.quarter_turns, v.channel_shift, v.height_ratio, v.width_ratio]
        for v in PRESETS["deep-retina"]
    ]
    assert ours == told


@pytest.mark.parametrize("number", range(15))
def test_views_forth_and_back_as_the_original(reference, number):
    file, view = reference[0], PRESETS["deep-retina"][number]
    image = file["tta_image_in"]
    expected = file[f"tta_image_aug{number}"]
    found = view_of(image, view)
    # stored as float32; scaled values carry the last bits' noise of the machine that made them
    tolerance = 1e-6 if expected.dtype == np.float32 else 0
    assert found == pytest.approx(expected, rel=tolerance, abs=tolerance)
    back = masks_from_view(stack(file, f"tta_mask_in{number}"), view, image.shape[:2])
    assert np.array_equal(back, stack(file, f"tta_mask_back{number}"))


def resize_cases():
    path = REFERENCE / "deepretina_reference.json"
    return list(json.loads(path.read_text())["resize"]) if path.is_file() else []


@pytest.mark.parametrize("case", resize_cases())
def test_resize_modes_as_the_original(reference, case):
    file, told = reference[0], reference[1]["resize"][case]
    asked = {k: v or 0 for k, v in told["args"].items() if k in ("min_dim", "max_dim", "min_scale")}
    if "zoom" in told["args"]:
        asked["scale"] = tuple(told["scale"])
    if told["crop"]:
        asked["corner"] = tuple(told["crop"][:2])
    found = mold(file[f"resize_{case}_in"], told["args"]["mode"], **asked)
    expected = file[f"resize_{case}_out"]
    if expected.dtype == np.uint8 and found.scale != (1, 1):
        # Values are cut off to integers: one that is an integer but for the last bit may fall either way.
        exact = mold(file[f"resize_{case}_in"].astype(float), told["args"]["mode"], **asked).image
        sure = np.abs(exact - exact.round()) > 1e-9
        assert np.array_equal(found.image[sure], expected[sure])
        assert np.abs(found.image.astype(int) - expected).max() <= 1
        assert (found.image != expected).mean() < 0.02
    else:
        assert found.image == pytest.approx(expected, rel=1e-12)
    stored = f"resize_{case}_float_before_truncation"
    if stored in file.files:
        y0, x0, y1, x1 = found.window
        assert exact[y0:y1, x0:x1] == pytest.approx(file[stored], rel=1e-6, abs=1e-6)
    assert found.image.dtype == told["out_dtype"]
    assert list(found.window) == told["window"]
    assert found.scale == pytest.approx(np.broadcast_to(told["scale"], 2).tolist(), rel=1e-15)
    assert [list(p) for p in found.padding] == told["padding"][:2]
    assert (list(found.crop) if found.crop else None) == told["crop"]


def test_impossible_resizes_are_told():
    image = np.zeros((9, 9, 3))
    cases = [("square", {}), ("crop", {}), ("stretch", {}), ("crop", {"min_dim": 9, "corner": (1, 0)})]
    for mode, values in cases:
        with pytest.raises(UserError):
            mold(image, mode, **values)


@pytest.mark.parametrize("view", EVERY_VIEW)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**32 - 1))
def test_the_way_back_is_exact(view, height, width, seed):
    """A box of the image, found in the view, comes back where it was; its mask with it."""
    rng = np.random.default_rng(seed)
    x0, y0 = int(rng.integers(width)), int(rng.integers(height))
    x1, y1 = int(rng.integers(x0, width)) + 1, int(rng.integers(y0, height)) + 1
    image = rng.integers(0, 255, (height, width)).astype(np.uint8)
    marked = np.zeros((height, width), bool)
    marked[y0:y1, x0:x1] = True
    turned = view.orient(marked)
    assert turned.shape == view.turned((height, width))
    ys, xs = np.nonzero(turned)
    box = np.array([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]], np.float32)
    # the mask is a picture of the box's content: sampled in the view, it must show the image's own
    grid = (np.arange(28) + 0.5) / 28
    rows = (box[0, 1] + grid * (box[0, 3] - box[0, 1])).astype(int)
    columns = (box[0, 0] + grid * (box[0, 2] - box[0, 0])).astype(int)
    mask = view.orient(image)[np.ix_(rows, columns)][None]
    found = RawInstances(
        box, np.ones(1, np.float32), mask, np.ones(1, np.int32), np.zeros(1, np.int32),
        np.zeros(1, np.int32), view.turned((height, width)),
    )  # fmt: skip
    back = view.restore(found, (height, width))
    assert back.boxes.tolist() == [[x0, y0, x1, y1]]
    assert back.shape == (height, width)
    # samples that fall on a pixel's edge may read either neighbour: compare those in the middle
    exact_rows, exact_columns = y0 + grid * (y1 - y0), x0 + grid * (x1 - x0)
    inner = np.ix_(np.abs(exact_rows % 1 - 0.5) < 0.45, np.abs(exact_columns % 1 - 0.5) < 0.45)
    expected = image[np.ix_(exact_rows.astype(int), exact_columns.astype(int))]
    assert np.array_equal(back.masks[0][inner], expected[inner])


def test_small_images_are_not_shrunk():
    view = View(height_ratio=0.5, width_ratio=0.5)
    assert view.size((600, 700)) == (300, 350)
    assert view.size((511, 700)) == (511, 700)
    assert View(height_ratio=2, width_ratio=0.9, quarter_turns=1).size((600, 700)) == (1400, 540)


def test_channels_shift_within_the_images_range():
    image = np.random.default_rng(0).random((9, 9, 3)).astype(np.float32)
    shifted = [shift_channels(image, 0.1, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(shifted[0], shifted[1])
    assert not np.array_equal(shifted[0], shifted[2])
    assert image.min() <= shifted[0].min()
    assert shifted[0].max() <= image.max()


def test_own_lists_of_views(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('[{}, {"quarter_turns": 2, "width_ratio": 1.5}]')
    assert resolve_views(str(path)) == (View(), View(quarter_turns=2, width_ratio=1.5))
    assert resolve_views([View(flip_lr=True)]) == (View(flip_lr=True),)
    for content, says in (("[", "not valid JSON"), ('[{"turn": 1}]', "turn"), ("[]", "0 views")):
        path.write_text(content)
        with pytest.raises(UserError, match=says):
            resolve_views(str(path))
    with pytest.raises(UserError, match="choose none, flips"):
        resolve_views("everything")
    with pytest.raises(UserError, match="cannot be read"):
        resolve_views("nowhere.json")
