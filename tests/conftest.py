"""Shared fixtures: real data if it is there, tiny networks, and Qt without a screen."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("NAPARI_ASYNC", "0")
BESIDE = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
"""Processes that run tests side by side; each has its share of two cores, as have those that it starts."""
if BESIDE > 1:
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_modifyitems(items):
    """Tests with windows stay in one process where tests run side by side: they share a screen."""
    for item in items:
        if "widgets" in item.path.parts:
            item.add_marker(pytest.mark.xdist_group("widgets"))


@pytest.fixture(autouse=True, scope="session")
def _two_threads():
    """The suite is made for two cores; more threads than that only wait for each other."""
    import torch

    torch.set_num_threads(max(1, min(2, os.cpu_count() or 1) // BESIDE))


@pytest.fixture(autouse=True, scope="session")
def _exact():
    """Inference in float32 on every machine, unless a test asks for something else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("napari_deepretina.model.precision.fast_cpu_bfloat16", lambda: False)
        yield


@pytest.fixture(autouse=True)
def _own_user_folder(tmp_path_factory, monkeypatch):
    """A person's own weights must not change what tests see, nor what another test remembered."""
    data = tmp_path_factory.getbasetemp() / "xdg"  # napari keeps its icons there for as long as it runs
    for kept in ("presets", "weights"):
        shutil.rmtree(data / "napari-deepretina" / kept, ignore_errors=True)
    (data / "napari-deepretina" / "windows.json").unlink(missing_ok=True)
    monkeypatch.setenv("XDG_DATA_HOME", str(data))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def stage1() -> Path:
    """Folder with the real training images; the test is skipped where there is none."""
    named = os.environ.get("DEEPRETINA_DATA")
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    for folder in ([Path(named)] if named else []) + [beside]:
        if (folder / "stage1_train.zip").is_file():
            return folder
    pytest.skip("stage1_train.zip is neither in $DEEPRETINA_DATA nor in ../shared/data")


@pytest.fixture(scope="session")
def tiny_architecture():
    from napari_deepretina.model.architecture import Architecture

    return Architecture(
        backbone="resnet18", width=1 / 8, fpn_channels=16, box_units=16, mask_convs=1, mask_channels=8,
        short_side=64,
    )  # fmt: skip


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory, tiny_architecture) -> Path:
    """A weights file of ours with random weights in a small network, which sees a few nuclei in anything."""
    from napari_deepretina.model.header import WeightsInfo
    from napari_deepretina.model.network import build
    from napari_deepretina.model.weights import save_weights

    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    info = WeightsInfo(name="tiny", architecture=tiny_architecture, diameter=20, score={"dsb_score": 0.1})
    save_weights(build(tiny_architecture, seed=6).state_dict(), info, path)
    return path


@pytest.fixture(scope="session")
def paired_weights(tmp_path_factory, tiny_architecture) -> Path:
    """Weights like the tiny ones, with a specialist for stained tissue beside them."""
    import torch

    from napari_deepretina.model.difference import factored, save_difference
    from napari_deepretina.model.header import Specialist, WeightsInfo
    from napari_deepretina.model.network import build
    from napari_deepretina.model.weights import load_model, save_weights

    path = tmp_path_factory.mktemp("pair") / "pair.safetensors"
    info = WeightsInfo(name="pair", architecture=tiny_architecture, diameter=20, postprocess={"score": 0.5})
    save_weights(build(tiny_architecture, seed=6).state_dict(), info, path)
    base = load_model(path)
    chance = torch.Generator().manual_seed(3)
    apart = {
        name: 0.3 * value.std() * torch.randn(value.shape, generator=chance)
        for name, value in base.network.state_dict().items()
        if value.is_floating_point() and value.ndim > 1
    }
    told = Specialist(base="pair", sha256=base.sha256)
    info = info.model_copy(update={"specialist": told, "postprocess": {"score": 0.4}})
    save_difference(factored(apart, 600_000), info, path.with_name("pair-tissue.safetensors"))
    return path


@pytest.fixture(scope="session")
def nuclei_model():
    """The quick one of the bundled networks, on the CPU."""
    from napari_deepretina.model.weights import load_model

    return load_model("nuclei-small")


@pytest.fixture(scope="session")
def default_model():
    """The bundled network that is used where nobody chooses, on the CPU: three times as slow."""
    from napari_deepretina.model.weights import DEFAULT, load_model

    return load_model(DEFAULT)
