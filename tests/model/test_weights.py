import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from napari_deepretina.errors import UserError
from napari_deepretina.model import weights
from napari_deepretina.model.header import WeightsInfo
from napari_deepretina.model.network import build
from napari_deepretina.model.weights import (
    available,
    find,
    load_model,
    read_info,
    save_weights,
    write_tensors,
)


def test_round_trip_keeps_header_and_half_precision(tiny_weights, tiny_architecture):
    model = load_model(tiny_weights)
    original = build(tiny_architecture, seed=6).state_dict()
    for name, value in model.network.state_dict().items():
        assert torch.allclose(value.float(), original[name].float(), atol=1e-3, rtol=1e-3), name
        assert value.dtype == original[name].dtype
    assert not model.network.training
    assert model.info.architecture == tiny_architecture
    assert read_info(tiny_weights).score == {"dsb_score": 0.1}
    assert len(model.sha256) == 64


def test_names_are_found_in_the_users_folder(tiny_weights):
    folder = weights.user_folder()
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(tiny_weights, folder / "mine.safetensors")
    try:
        assert "mine" in available()
        assert load_model("mine").info.name == "tiny"
    finally:
        shutil.rmtree(folder)


def write(path, content):
    path.write_bytes(content)
    return path


def test_bad_files_are_told(tmp_path, tiny_weights):
    whole = tiny_weights.read_bytes()
    cases = {
        "missing": ("no weights", tmp_path / "no.safetensors"),
        "truncated": ("damaged", write(tmp_path / "half.safetensors", whole[: len(whole) // 2])),
        "empty": ("damaged", write(tmp_path / "empty.safetensors", b"")),
        "text": ("damaged", write(tmp_path / "text.safetensors", b"hello" * 100)),
    }
    torch.save({"a": torch.zeros(2)}, tmp_path / "pickle.pt")
    cases["pickle"] = ("is a pickle", tmp_path / "pickle.pt")
    cases["old pickle"] = ("is a pickle", write(tmp_path / "old.pkl", b"\x80\x04K\x01."))
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    cases["not ours"] = ("not written by napari-deepretina", tmp_path / "foreign.safetensors")
    header = {"napari-deepretina": json.dumps({"name": "x", "architecture": {"backbone": "vgg"}})}
    save_file({"a": torch.zeros(2)}, tmp_path / "unknown.safetensors", metadata=header)
    cases["unknown network"] = ("does not know", tmp_path / "unknown.safetensors")
    for says, path in cases.values():
        with pytest.raises(UserError, match=says) as caught:
            load_model(path)
        assert str(path.name) in str(caught.value)


def test_tensors_that_do_not_fit_are_told(tmp_path, tiny_architecture):
    other = tiny_architecture.model_copy(update={"fpn_channels": 24})
    path = tmp_path / "misfit.safetensors"
    save_weights(build(tiny_architecture).state_dict(), WeightsInfo(name="x", architecture=other), path)
    with pytest.raises(UserError, match="does not fit"):
        load_model(path)


def test_a_failed_write_leaves_the_old_file(tmp_path, tiny_architecture, monkeypatch):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"old")
    state = build(tiny_architecture).state_dict()
    info = WeightsInfo(name="x", architecture=tiny_architecture)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match="No space left"):
        save_weights(state, info, path)
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]
    assert path.read_bytes() == b"old"
    state["regions.box_predictor.cls_score.bias"][0] = np.nan
    with pytest.raises(UserError, match="not a number"):
        save_weights(state, info, path)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(UserError, match="nuclei"):
        find("nucleii")


def test_a_header_of_any_length_is_read(tmp_path, tiny_architecture):
    """The first byte of a file is a part of its header's length, and may be that of a pickle."""
    path, few = tmp_path / "odd.safetensors", {"a": torch.zeros(3)}
    seen = set()
    for extra in range(0, 256, 8):  # headers are padded to eights
        info = WeightsInfo(name="odd", architecture=tiny_architecture, data="x" * extra)
        write_tensors(few, info, path)
        seen.add(path.read_bytes()[0])
        assert read_info(path).data == info.data
    assert 0x80 in seen
    state = build(tiny_architecture, seed=0).state_dict()
    info = info.model_copy(update={"data": ""})
    save_weights(state, info, path)
    lacking = (0x80 - path.read_bytes()[0]) % 256
    save_weights(state, info.model_copy(update={"data": "x" * lacking}), path)
    assert path.read_bytes()[0] == 0x80
    assert len(load_model(path).info.data) == lacking
