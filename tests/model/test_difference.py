"""Weights kept as what differs from others, and the specialist that goes with weights."""

import json
import shutil

import numpy as np
import pytest
import skimage.data
import tifffile
import torch
from skimage.color import hed2rgb, rgb2hed

from napari_deepretina.cli import main
from napari_deepretina.data.sample import Sample
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.errors import UserError
from napari_deepretina.inference.engine import _Packed, _unpacked
from napari_deepretina.inference.journal import key_of
from napari_deepretina.inference.segment import segment, segment_together
from napari_deepretina.inference.settings import make_settings
from napari_deepretina.inference.stacks import segment_stack
from napari_deepretina.inspection.steps import inspect_image
from napari_deepretina.model.difference import DOWN, UP, added, factored
from napari_deepretina.model.weights import (
    available,
    beside,
    copy_with,
    identity_of,
    load_model,
    read_info,
    sha256_of,
    specialist_of,
)
from napari_deepretina.teaching.session import base_of
from napari_deepretina.training.recipe import load_recipe
from napari_deepretina.training.start import starting_point

GLOWING = synthetic_nuclei((100, 120), 8, diameter=22, seed=3)[0]
HED = rgb2hed(skimage.data.immunohistochemistry()[:100, :120])[..., [0, 2, 1]]  # pink instead of brown
STAINED = (hed2rgb(HED) * 255).astype(np.uint8)
NOTHING = np.zeros((100, 120), np.int32)
EVERYTHING = {"score": 0.0, "min_area": 1, "adapt": False}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_factors_keep_what_weighs_most():
    thin = random(200, 3) @ random(3, 150, seed=1)
    apart = {"a.weight": thin.view(200, 50, 3, 1), "b.weight": 0.01 * random(160, 160), "b.bias": random(160)}
    kept = factored(apart, 160 + 3 * 350)
    assert set(kept) == {"a.weight" + UP, "a.weight" + DOWN, "b.bias"}
    assert sum(v.numel() for v in kept.values()) == 160 + 3 * 350
    base = {k: torch.ones_like(v) for k, v in apart.items()}
    assert torch.allclose(added(base, kept, "x")["a.weight"] - 1, apart["a.weight"], atol=1e-4)
    whole = added(base, factored(apart, 10**6), "x")
    assert all(torch.allclose(whole[k] - 1, v, atol=1e-4) for k, v in apart.items())


def test_more_numbers_are_never_worse():
    apart = {"a": random(150, 200), "b": 0.5 * random(200, 180, seed=4)}
    errors = []
    for numbers in (1_000, 10_000, 40_000, 200_000):
        kept = factored(apart, numbers)
        assert sum(v.numel() for v in kept.values()) <= numbers
        whole = added({k: 0 * v for k, v in apart.items()}, kept, "x")
        errors.append(sum(float((v - whole[k]).square().sum()) for k, v in apart.items()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3 < errors[0]


@pytest.mark.parametrize(
    "differences",
    [
        {"a": torch.zeros(4, 6)},
        {"a": torch.zeros(24)},
        {"c": torch.zeros(4, 2, 3)},
        {"a" + UP: torch.zeros(4, 1)},
        {"a" + UP: torch.zeros(4, 1), "a" + DOWN: torch.zeros(2, 6)},
        {"a" + UP: torch.zeros(4), "a" + DOWN: torch.zeros(6)},
        {"a" + UP: torch.zeros(10**7, 1), "a" + DOWN: torch.zeros(1, 10**7)},
        {"c" + UP: torch.zeros(4, 1), "c" + DOWN: torch.zeros(1, 6)},
    ],
    ids=["shape", "order", "unknown", "half", "ranks", "axes", "size", "unknown factors"],
)
def test_differences_of_another_network_are_refused(differences):
    with pytest.raises(UserError, match=r"x\.safetensors does not fit .* [ac] differs in shape"):
        added({"a": torch.zeros(4, 2, 3)}, differences, "x.safetensors")


def test_a_specialist_looks_at_its_own_images_alone(paired_weights):
    pair = load_model(paired_weights)
    alone = load_model(paired_weights.with_name("pair-tissue.safetensors"))
    general = load_model(paired_weights)
    object.__setattr__(general, "beside", None)
    for image, chosen, other in ((GLOWING, general, alone), (STAINED, alone, general)):
        found, same, not_same = (segment(image, model=m, **EVERYTHING) for m in (pair, chosen, other))
        assert np.array_equal(found.prediction.raw.boxes, same.prediction.raw.boxes)
        assert not np.array_equal(found.prediction.raw.boxes, not_same.prediction.raw.boxes)
    told = segment(STAINED, model=pair, **EVERYTHING).provenance()
    assert told["weights"]["name"] == "pair"
    assert told["weights"]["sha256"] == pair.sha256 == sha256_of(paired_weights)
    assert told["weights"]["specialist"] == "pair-tissue"
    assert told["weights"]["specialist_sha256"] == alone.sha256
    assert told["notes"][0] == "looked at with pair-tissue"
    assert "specialist" not in segment(GLOWING, model=pair, **EVERYTHING).weights


def test_a_person_may_say_which_network_looks(paired_weights):
    pair = load_model(paired_weights)
    for image in (GLOWING, STAINED):
        as_asked = {
            asked: segment(image, model=pair, specialist=asked, **EVERYTHING).weights.get("specialist")
            for asked in ("never", "always")
        }
        assert as_asked == {"never": None, "always": "pair-tissue"}
    with pytest.raises(UserError, match="specialist='perhaps'"):
        make_settings(specialist="perhaps")
    turned = segment(STAINED, model=pair, invert=True, **EVERYTHING)
    assert "specialist" not in turned.weights  # inverted it is no tissue


def test_images_together_are_as_each_by_itself(paired_weights):
    pair, settings = load_model(paired_weights), make_settings(**EVERYTHING)
    images = [GLOWING, STAINED, GLOWING[::-1], STAINED[:, ::-1]]
    for image, found in zip(images, segment_together(images, pair, settings), strict=True):
        alone = segment(image, model=pair, **EVERYTHING)
        assert found.weights == alone.weights
        ours, same = (np.sort(x.prediction.raw.boxes, axis=0) for x in (found, alone))  # equal scores swap
        assert np.allclose(ours, same, atol=1e-3)


def test_one_network_for_all_planes_and_for_all_tiles(paired_weights):
    pair = load_model(paired_weights)
    odd = np.repeat(STAINED.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)  # by itself no tissue
    stack = np.stack([STAINED, odd, STAINED])
    done = segment_stack(stack, "ZYXC", model=pair, **EVERYTHING)
    assert {p.weights["specialist"] for p in done.planes.values()} == {"pair-tissue"}
    assert done.settings.specialist == "auto"
    large = np.tile(STAINED, (6, 6, 1))
    found = segment(large, model=pair, tile=256, **EVERYTHING)
    assert found.weights["specialist"] == "pair-tissue"
    assert len(np.unique(found.prediction.raw.tiles)) > 2


def test_a_mixed_folder_is_run_and_replayed_with_the_advice_of_each(paired_weights, tmp_path):
    folder, first, again = (tmp_path / name for name in ("in", "first", "again"))
    folder.mkdir()
    tifffile.imwrite(folder / "a.tif", GLOWING)
    tifffile.imwrite(folder / "b.tif", STAINED, photometric="rgb")
    words = ["segment", str(folder), "--weights", str(paired_weights), "--device", "cpu", "--quiet"]
    assert main([*words, "--out", str(first)]) == 0
    run = json.loads((first / "run.json").read_text())
    assert (run["settings"]["score"], run["advised"]) == (0.5, ["score", "nms", "min_area"])
    assert "looked at with pair-tissue, lowest score 0.4" in run["images"]["b"]["notes"]
    assert not any("looked at with" in note for note in run["images"]["a"].get("notes", []))
    asked = make_settings(weights=str(paired_weights), device="cpu")
    known, info = identity_of(paired_weights), read_info(paired_weights)
    assert key_of(known, info, make_settings(**run["settings"])) == key_of(known, info, asked)  # for reviews
    assert main(["segment", "--replay", str(first / "run.json"), "--out", str(again), "--quiet"]) == 0
    for name in ("a.tif", "b.tif"):
        assert (first / name).read_bytes() == (again / name).read_bytes()
    labels = tifffile.imread(first / "b.tif")
    assert labels.max() == segment(STAINED, model=load_model(paired_weights), score=0.4).count > 0
    run["weights"]["specialist_sha256"] = "0" * 64
    (first / "run.json").write_text(json.dumps(run))
    assert (
        main(["segment", "--replay", str(first / "run.json"), "--out", str(tmp_path / "c"), "--quiet"]) == 2
    )


def test_inspection_shows_the_network_that_looks(paired_weights):
    pair = load_model(paired_weights)
    boxes = [inspect_image(pair, image).raw.boxes for image in (GLOWING, STAINED)]
    alone = load_model(paired_weights.with_name("pair-tissue.safetensors"))
    assert np.array_equal(boxes[1], inspect_image(alone, STAINED).raw.boxes)
    assert not np.array_equal(boxes[0], inspect_image(alone, GLOWING).raw.boxes)


def test_teaching_and_training_begin_with_the_network_that_looks(paired_weights):
    settings = make_settings()
    assert base_of(paired_weights, GLOWING, settings) == paired_weights
    assert base_of(paired_weights, STAINED, settings).stem == "pair-tissue"
    assert base_of(paired_weights, STAINED, make_settings(specialist="never")) == paired_weights
    recipe = load_recipe("fine-tune")
    general, special = (
        starting_point(
            str(paired_weights), recipe, images=[Sample("seen", image, np.zeros((100, 120), np.int32))]
        )
        for image in (GLOWING, STAINED)
    )
    assert (general[1].name, special[1].name) == ("pair", "pair-tissue")


def test_a_pair_travels_together(paired_weights):
    there = _unpacked(_Packed.of(load_model(paired_weights), "cpu", "float32"))
    assert there.identity == load_model(paired_weights).identity == identity_of(paired_weights)
    here = segment(STAINED, model=load_model(paired_weights), **EVERYTHING)
    assert np.array_equal(segment(STAINED, model=there, **EVERYTHING).labels, here.labels)


def test_a_specialist_of_other_weights_is_left_alone(paired_weights, tiny_weights, tmp_path):
    """The base was trained on, or replaced; the difference is to what it was."""
    for name in ("pair", "pair-tissue"):
        shutil.copy(paired_weights.with_name(f"{name}.safetensors"), tmp_path)
    base = tmp_path / "pair.safetensors"
    assert beside(base).path == tmp_path / "pair-tissue.safetensors"
    assert specialist_of(base)
    before = identity_of(base)
    copy_with(tiny_weights, read_info(tiny_weights), base)
    assert beside(base) is None
    assert not specialist_of(base)
    assert identity_of(base) == sha256_of(base) != before
    assert "specialist" not in segment(STAINED, model=load_model(base), **EVERYTHING).weights
    with pytest.raises(UserError, match=r"belongs to weights 'pair' .* not at hand"):
        load_model(tmp_path / "pair-tissue.safetensors")


def test_a_damaged_specialist_is_told(paired_weights, tmp_path):
    shutil.copy(paired_weights, tmp_path)
    (tmp_path / "pair-tissue.safetensors").write_bytes(b"\x09" + bytes(40))
    with pytest.raises(UserError, match=r"pair-tissue\.safetensors is damaged"):
        load_model(tmp_path / "pair.safetensors")
    assert not specialist_of(tmp_path / "none.safetensors")


def test_shipped_specialists_belong_to_shipped_weights():
    for name, path in available().items():
        told = read_info(path).specialist
        if told is not None:
            assert beside(available()[told.base]).path == path
            assert name == f"{told.base}-tissue"
            assert read_info(path).attribution
