"""Weights files of Keras, written here in their layout, broken ones included; published files."""

import dataclasses
import hashlib
import http.server
import subprocess
import sys
import threading
from typing import ClassVar

import h5py
import numpy as np
import pytest
import torch
from torchvision.models.detection import maskrcnn_resnet50_fpn

from napari_deepretina.cli import main
from napari_deepretina.errors import UserError
from napari_deepretina.model import published
from napari_deepretina.model.architecture import Architecture
from napari_deepretina.model.matterport.coco_names import COCO_NAMES
from napari_deepretina.model.matterport.keras_weights import (
    HEADS,
    export_keras,
    import_keras,
    read_keras,
)
from napari_deepretina.model.network import build
from napari_deepretina.model.weights import load_model, read_info
from napari_deepretina.training.recipe import Recipe, Stage
from napari_deepretina.training.start import starting_point

BLOCKS = {"matterport_resnet50": 6, "matterport_resnet101": 23}


def narrow_shapes(backbone="matterport_resnet50", classes=1):
    """Keras names and shapes of a narrow network, told apart from our own code."""
    shapes = {}

    def convolution(name, height, before, after):
        shapes[f"{name}/kernel:0"] = (height, height, before, after)
        shapes[f"{name}/bias:0"] = (after,)

    def norm(name, channels):
        for kind in ("gamma", "beta", "moving_mean", "moving_variance"):
            shapes[f"{name}/{kind}:0"] = (channels,)

    convolution("conv1", 7, 3, 4)
    norm("bn_conv1", 4)
    before = 4
    for stage, count in zip((2, 3, 4, 5), (3, 4, BLOCKS[backbone], 3), strict=True):
        for k in range(count):
            at = f"{stage}{chr(97 + k)}_branch"
            for branch, height, i, o in (("2a", 1, before, 4), ("2b", 3, 4, 4), ("2c", 1, 4, 8)):
                convolution(f"res{at}{branch}", height, i, o)
                norm(f"bn{at}{branch}", o)
            if k == 0:
                convolution(f"res{at}1", 1, before, 8)
                norm(f"bn{at}1", 8)
            before = 8
    for k in (2, 3, 4, 5):
        convolution(f"fpn_c{k}p{k}", 1, 8, 8)
        convolution(f"fpn_p{k}", 3, 8, 8)
    convolution("rpn_conv_shared", 3, 8, 8)
    convolution("rpn_class_raw", 1, 8, 6)
    convolution("rpn_bbox_pred", 1, 8, 12)
    convolution("mrcnn_class_conv1", 7, 8, 8)
    convolution("mrcnn_class_conv2", 1, 8, 8)
    for k in (1, 2):
        norm(f"mrcnn_class_bn{k}", 8)
    for name, width in (("mrcnn_class_logits", classes + 1), ("mrcnn_bbox_fc", 4 * (classes + 1))):
        shapes[f"{name}/kernel:0"], shapes[f"{name}/bias:0"] = (8, width), (width,)
    for k in range(1, 5):
        convolution(f"mrcnn_mask_conv{k}", 3, 8, 8)
        norm(f"mrcnn_mask_bn{k}", 8)
    convolution("mrcnn_mask_deconv", 2, 8, 8)
    convolution("mrcnn_mask", 1, 8, classes + 1)
    return shapes


def write(path, shapes, *, group="", seed=0, change=None):
    """The file of Keras: a group a layer, the proposal network nested, layers without weights."""
    rng = np.random.default_rng(seed)
    weights = {n: rng.random(s).astype(np.float32) * 0.1 for n, s in shapes.items()}
    if change:
        change(weights)
    with h5py.File(path, "w") as file:
        root = file.create_group(group) if group else file
        owners = {}
        for name in weights:
            layer = name.split("/")[0]
            owners.setdefault("rpn_model" if layer.startswith("rpn") else layer, []).append(name)
        root.attrs["layer_names"] = [b"input_image", *(o.encode() for o in owners)]
        root.create_group("input_image").attrs["weight_names"] = np.zeros(0)
        for owner, names in owners.items():
            root.create_group(owner).attrs["weight_names"] = [n.encode() for n in names]
            for name in names:
                root.create_dataset(f"{owner}/{name}", data=weights[name])
    return weights


@pytest.mark.parametrize("backbone", list(BLOCKS))
@pytest.mark.parametrize("group", ["", "model_weights"])
@pytest.mark.parametrize("classes", [1, 3])
def test_import_and_export_are_inverse(tmp_path, backbone, group, classes):
    weights = write(tmp_path / "a.h5", narrow_shapes(backbone, classes), group=group)
    imported = import_keras(tmp_path / "a.h5")
    assert imported.network.architecture.backbone == backbone
    assert len(imported.network.architecture.classes) == classes
    assert imported.left_out == imported.missing == ()
    export_keras(imported.network, tmp_path / "b.h5")
    back = read_keras(tmp_path / "b.h5")
    assert back.keys() == weights.keys()
    for name, value in weights.items():
        assert np.array_equal(back[name], value), name


def test_exported_files_list_layers_as_keras_does(original, tmp_path):
    export_keras(import_keras(original.tiny_file).network, tmp_path / "b.h5")
    layers = original.manifest["models"]["resnet101_inference"]["layers"]
    with h5py.File(tmp_path / "b.h5") as file:
        told = [n.decode() for n in file.attrs["layer_names"]]
        assert told == [layer["layer"] for layer in layers if layer["weights"]]
        for layer in layers:
            if layer["weights"]:
                names = [n.decode() for n in file[layer["layer"]].attrs["weight_names"]]
                assert names == [w["name"] for w in layer["weights"]]
                assert all(w["h5_path"] in file for w in layer["weights"])


def test_the_command_line_imports_tells_and_exports(tmp_path, capsys):
    weights = write(tmp_path / "coco.h5", narrow_shapes(classes=80))
    weights["strange/kernel:0"] = np.zeros((1, 1), np.float32)
    with h5py.File(tmp_path / "coco.h5", "a") as file:
        file["strange/strange/kernel:0"] = weights["strange/kernel:0"]
    target = tmp_path / "coco.safetensors"
    assert main(["weights", "import", str(tmp_path / "coco.h5"), str(target)]) == 0
    told = capsys.readouterr().out
    assert "mrcnn_mask_deconv" in told
    assert "1 left out: strange/kernel:0" in told
    model = load_model(target)
    assert model.info.architecture.classes == COCO_NAMES
    assert model.info.architecture.anchor_sizes == (32, 64, 128, 256, 512)
    assert main(["weights", "export", str(target), str(tmp_path / "back.h5")]) == 0
    back = read_keras(tmp_path / "back.h5")
    assert all(np.array_equal(back[n], weights[n]) for n in back)
    assert main(["weights", "import", str(tmp_path / "coco.h5"), str(target)]) == 2
    assert "pass --overwrite" in capsys.readouterr().err
    # as step 1 of the recipe begins: all but what knows the classes
    command = [
        "weights",
        "import",
        str(tmp_path / "coco.h5"),
        str(target),
        "--exclude",
        "heads",
        "--overwrite",
    ]
    assert main(command) == 0
    assert f"{len(HEADS)} missing, random: " in capsys.readouterr().out
    info = load_model(target).info
    assert info.architecture.classes == ("nucleus",)
    assert info.architecture.anchor_sizes == (8, 16, 32, 64, 128)
    assert info.postprocess["score"] == 0.9


def without(name):
    return lambda weights: weights.pop(name)


def misshapen(weights):
    weights["res3b_branch2b/kernel:0"] = np.zeros((3, 3, 4, 5), np.float32)


def infinite(weights):
    weights["conv1/bias:0"][1] = np.inf


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (without("fpn_p3/bias:0"), "fpn_p3/bias:0 is missing"),
        (without("conv1/kernel:0"), "not a Mask R-CNN of Matterport: conv1/kernel:0"),
        (lambda w: [w.pop(n) for n in list(w) if n.startswith(("res4e", "res4f"))], "4 blocks"),
        (misshapen, r"res3b_branch2b/kernel:0 has shape \(3, 3, 4, 5\), \(3, 3, 4, 4\) was expected"),
        (infinite, "infinite or not a number"),
        (lambda w: w.update({"conv1/bias:0": np.zeros(4, np.int64)}), "holds int64"),
        (lambda w: w.clear(), "holds no weights"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, change, told):
    write(tmp_path / "bad.h5", narrow_shapes(), change=change)
    with pytest.raises(UserError, match=told):
        import_keras(tmp_path / "bad.h5")


def test_what_is_no_such_file_is_refused(tmp_path, capsys):
    (tmp_path / "text.h5").write_text("no")
    assert main(["weights", "import", str(tmp_path / "text.h5"), str(tmp_path / "o.safetensors")]) == 2
    write(tmp_path / "whole.h5", narrow_shapes())
    content = (tmp_path / "whole.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(content[: len(content) // 2])
    assert main(["weights", "import", str(tmp_path / "cut.h5"), str(tmp_path / "o.safetensors")]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert all("cannot be read as HDF5" in line for line in told)
    assert not (tmp_path / "o.safetensors").exists()
    with pytest.raises(UserError, match="cannot be read as HDF5"):
        load_model(tmp_path / "cut.h5")
    model = load_model(tmp_path / "whole.h5")
    assert model.info == read_info(tmp_path / "whole.h5")
    assert model.info.architecture.is_matterport
    with pytest.raises(UserError, match="no layer has this name"):
        import_keras(tmp_path / "whole.h5", exclude=["conv9"])
    with pytest.raises(UserError, match="tells 1 classes apart, 2 names"):
        import_keras(tmp_path / "whole.h5", classes=["a", "b"])


def test_only_matterport_networks_become_keras_files(tiny_architecture, tmp_path):
    with pytest.raises(UserError, match="only weights of matterport"):
        export_keras(build(tiny_architecture), tmp_path / "x.h5")


class _Ranges(http.server.BaseHTTPRequestHandler):
    content = bytes(range(256)) * 40
    asked: ClassVar[list[int]] = []
    knows_ranges: ClassVar[bool] = True

    def do_GET(self):
        begun = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        self.asked.append(begun)
        begun = begun if self.knows_ranges else 0
        if begun >= len(self.content):
            self.send_error(416)
            return
        self.send_response(206 if begun else 200)
        self.end_headers()
        self.wfile.write(self.content[begun:])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Ranges) as here:
        threading.Thread(target=here.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{here.server_port}/file.h5"
        here.shutdown()


def test_published_files_are_fetched_once_checked_and_gone_on_with(server, tmp_path):
    good = published.Published("file.h5", server, "md5:" + hashlib.md5(_Ranges.content).hexdigest())
    _Ranges.asked.clear()
    tmp_path.joinpath("file.h5.part").write_bytes(_Ranges.content[:1000])
    path = published.fetch(good, folder=tmp_path, quiet=True)
    assert path.read_bytes() == _Ranges.content
    assert published.fetch(good, folder=tmp_path, quiet=True) == path
    assert _Ranges.asked == [1000]
    bad = published.Published("other.h5", server, "md5:" + "0" * 32)
    with pytest.raises(UserError, match="is not the file that was published; fetch http"):
        published.fetch(bad, folder=tmp_path, quiet=True)
    assert [p.name for p in tmp_path.iterdir()] == ["file.h5"]


CONTENT = _Ranges.content


@pytest.mark.parametrize("knows_ranges", [True, False], ids=["ranges", "no ranges"])
@pytest.mark.parametrize(
    ("lies_there", "kept"),
    [
        ({}, []),
        ({"f.h5": b""}, []),
        ({"f.h5": b"another file"}, ["f.h5.other"]),
        ({"f.h5.part": CONTENT}, []),
        ({"f.h5.part": CONTENT[:500]}, []),
        ({"f.h5.part": CONTENT + b"more"}, []),
        ({"f.h5.part": b""}, []),
        ({"f.h5.part": b"of another file"}, []),
    ],
    ids=["nothing", "empty target", "another file", "complete part", "part", "too long a part", "empty part",
         "part of another file"],
)  # fmt: skip
def test_whatever_lies_there_the_second_try_is_right(
    server, tmp_path, monkeypatch, lies_there, kept, knows_ranges
):
    monkeypatch.setattr(_Ranges, "knows_ranges", knows_ranges)
    good = published.Published("f.h5", server, "md5:" + hashlib.md5(CONTENT).hexdigest())
    for name, content in lies_there.items():
        (tmp_path / name).write_bytes(content)
    try:
        published.fetch(good, folder=tmp_path, quiet=True)
    except UserError:
        published.fetch(good, folder=tmp_path, quiet=True)
    assert (tmp_path / "f.h5").read_bytes() == CONTENT
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.h5", *kept]


def test_offline_tells_what_to_do(tmp_path):
    nowhere = published.Published("x.h5", "http://127.0.0.1:9/x.h5", "md5:0")
    with pytest.raises(UserError, match="in a browser and put it into"):
        published.fetch(nowhere, folder=tmp_path, quiet=True)


def written_as(kind, folder, monkeypatch, shapes, **options):
    """A file of the test's in the place, and with the hash, of one that was published."""
    file = published.MATTERPORT[kind]
    weights = write(folder / file.name, shapes, **options)
    told = "md5:" + hashlib.md5((folder / file.name).read_bytes()).hexdigest()
    monkeypatch.setitem(published.MATTERPORT, kind, dataclasses.replace(file, known_hash=told))
    return weights


def test_coco_and_imagenet_start_matterport_networks(tmp_path, monkeypatch):
    monkeypatch.setattr(published, "published_folder", lambda: tmp_path)
    weights = written_as("coco", tmp_path, monkeypatch, narrow_shapes(classes=80))
    architecture = Architecture(
        backbone="matterport_resnet50", body_widths=(4, *(4, 8) * 4), fpn_channels=8, rpn_channels=8,
        box_units=8, mask_channels=8,
    )  # fmt: skip
    recipe = Recipe(name="x", architecture=architecture, stages=(Stage(name="s", steps=1, learning_rate=1),))
    network, info = starting_point("coco", recipe, ("nucleus", "cell"))
    assert info.architecture.classes == ("nucleus", "cell")
    taken = network.layers["mrcnn_mask_conv2"].bias.detach().numpy()
    assert np.array_equal(taken, weights["mrcnn_mask_conv2/bias:0"])
    assert network.layers["mrcnn_mask"].out_channels == 3
    body = {n: s for n, s in narrow_shapes().items() if n.startswith(("conv1", "bn_conv1", "res", "bn"))}
    weights = written_as("imagenet", tmp_path, monkeypatch, body, seed=5)
    network, _ = starting_point("imagenet", recipe)
    taken = network.layers["bn5c_branch2c"].running_mean.numpy()
    assert np.array_equal(taken, weights["bn5c_branch2c/moving_mean:0"])
    assert not network.layers["fpn_p2"].bias.any()


def test_torchvisions_coco_weights_start_a_resnet50():
    theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, box_score_thresh=0).eval()
    ours = build(Architecture(backbone="resnet50")).eval()
    left = published.fill_from_torchvision(ours, theirs.state_dict())
    assert all(n.startswith(("regions.box_predictor", "regions.mask_predictor.mask_fcn_logits")) or ".1." in n
               for n in left)  # fmt: skip
    images = torch.rand(1, 3, 128, 128)
    with torch.inference_mode():
        expected = theirs.backbone(images)
        found = ours.backbone(images)
        for name, value in expected.items():
            assert torch.allclose(found[name], value, rtol=1e-3, atol=1e-3 * float(value.abs().max()))
        rpn, head = theirs.rpn.head(list(expected.values())), ours.proposals.head(list(expected.values()))
        assert all(
            torch.allclose(a, b, atol=1e-4) for a, b in zip(rpn[0] + rpn[1], head[0] + head[1], strict=True)
        )
    with pytest.raises(UserError, match="no Mask R-CNN with resnet18"):
        published.start_from_published("coco", build(Architecture(backbone="resnet18")))


def test_what_a_keras_file_advises_is_known_without_torch(tmp_path):
    """Windows ask for it on the GUI thread."""
    write(tmp_path / "whole.h5", narrow_shapes())
    script = (
        "import sys; from napari_deepretina.model.weights import advised_score, read_info, find\n"
        "print(advised_score(sys.argv[1]), read_info(find(sys.argv[1])).diameter, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "whole.h5")], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["0.9", "32.0", "False"]
