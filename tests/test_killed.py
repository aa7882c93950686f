"""Killed at any moment, a command goes on where it stood, and ends with what an undisturbed one ends with.

``DEEPRETINA_ALL_MOMENTS=1`` kills at each of them, which takes some minutes; else at a few.
"""

import hashlib
import json
import os

import numpy as np
import pytest
import tifffile
import torch
from safetensors.torch import load_file

from napari_deepretina.data.synthetic import synthetic_nuclei
from tests.crashes import Crashing
from tests.training.test_runs import command, nuclei

TIMES = {"seconds", "network", "postprocess"}
ALL = os.environ.get("DEEPRETINA_ALL_MOMENTS") == "1"


@pytest.fixture(scope="module")
def crashing():
    return Crashing()


def moments(count, few):
    """Numbers of changes before which a command is killed: all, or a few that are spread over it."""
    if ALL:
        return range(1, count + 1)
    return sorted({int(m) for m in np.linspace(1, count, few)})


def results(out):
    """Content of all results, without what is different each time and what only later runs need."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.is_file() and not name.startswith(".napari-deepretina") and name != "run.json":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    run = json.loads((out / "run.json").read_text())
    told = {name: {k: v for k, v in image.items() if k not in TIMES} for name, image in run["images"].items()}
    return found, told, run["settings"], run["weights"]


def goes_on(crashing, words, out, moment):
    """Kill a command at a moment, once more soon after it went on, and let it end; what it printed then."""
    assert crashing.run(words, out, moment) is None
    crashing.run([*words, "--resume"], out, 5)
    status, _, printed = crashing.run([*words, "--resume"], out)
    assert status == 0, printed
    return printed


@pytest.mark.parametrize("kind", ["folder", "tiles"])
def test_segment_is_killed(kind, crashing, tmp_path, tiny_weights):
    folder = tmp_path / "in"
    folder.mkdir()
    for k in range(1 if kind == "tiles" else 3):
        image = synthetic_nuclei((600, 520) if kind == "tiles" else (64, 72), 9, diameter=20, seed=k)[0]
        tifffile.imwrite(folder / f"{k}.tif", image)
    words = [
        "segment",
        folder,
        "--weights",
        tiny_weights,
        "--device",
        "cpu",
        "--score",
        0.2,
        "--diameter",
        20,
    ]
    words += ["--format", "labels,zarr,coco,features,overlay"] if kind == "folder" else ["--tile", 256]
    plain = tmp_path / "plain"
    status, count, printed = crashing.run([*words, "--out", plain], plain)
    assert status == 0, printed
    expected = results(plain)
    assert count > 20
    for moment in moments(count, 3):
        out = tmp_path / f"out{moment}"
        goes_on(crashing, [*words, "--out", out], out, moment)
        assert results(out) == expected, moment
        assert not list(out.rglob("*.part.*")), moment


def test_training_is_killed(crashing, tmp_path, tiny_weights):
    data = nuclei(tmp_path / "d", 3)
    changes = ("stages.steps=6", "stages.crop=64", "stages.batch_size=1", "workers=0")
    changes += ("validate_every=2", "checkpoint_every=2", "precision=32-true")

    def words(out):
        return command(data, out, tiny_weights, changes=changes)

    plain = tmp_path / "plain"
    status, count, printed = crashing.run(words(plain), plain)
    assert status == 0, printed
    expected = load_file(plain / "weights.safetensors"), load_file(plain / "last.safetensors")
    for moment in moments(count, 3):
        out = tmp_path / f"out{moment}"
        assert crashing.run(words(out), out, moment) is None
        more = ["--resume"] if (out / "checkpoints" / "last.ckpt").exists() else []
        status, _, printed = crashing.run([*words(out), *more], out)
        assert status == 0, printed
        for name, wanted in zip(("weights", "last"), expected, strict=True):
            found = load_file(out / f"{name}.safetensors")
            assert all(torch.equal(found[k], wanted[k]) for k in wanted), (moment, name)
        assert not list(out.rglob("*.part.*")), moment
