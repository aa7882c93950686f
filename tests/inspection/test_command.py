"""``inspect`` on the command line: pictures and numbers without a window."""

import json

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_deepretina.cli import main
from napari_deepretina.data.synthetic import synthetic_nuclei


@pytest.fixture
def folder(tmp_path):
    image, truth = synthetic_nuclei((160, 200), 14, diameter=26, seed=3)
    tifffile.imwrite(tmp_path / "image.tif", image)
    tifffile.imwrite(tmp_path / "truth.tif", truth)
    for kind, array in (("images", image), ("labels", truth)):
        (tmp_path / "set" / kind).mkdir(parents=True)
        tifffile.imwrite(tmp_path / "set" / kind / "a.tif", array)
    return tmp_path


def test_everything_is_written(folder, capsys):
    truth = tifffile.imread(folder / "truth.tif")
    y, x = (int(v[len(v) // 2]) for v in np.nonzero(truth == 2))
    command = [
        "inspect", str(folder / "image.tif"), "--out", str(folder / "out"), "--device", "cpu",
        "--truth", str(folder / "truth.tif"), "--at", f"{y},{x}", "--at", "0,0",
        "--compare", "nuclei", "--data", str(folder / "set"),
    ]  # fmt: skip
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "Nucleus" in told
    written = {p.name for p in (folder / "out").iterdir()}
    assert {
        "steps.png", "activations.png", "errors.png", "weights.png", "changes.png", "data.png", "crops.png",
        "numbers.json",
    } <= written  # fmt: skip
    for name in written - {"numbers.json"}:
        pixels = np.asarray(Image.open(folder / "out" / name).convert("L"))
        assert pixels.std() > 5, name  # something is drawn
    numbers = json.loads((folder / "out" / "numbers.json").read_text())
    assert numbers["nuclei"] > 5
    assert len(numbers["steps"]["final boxes"]["box"]) >= numbers["nuclei"]
    assert numbers["places"][0]["nucleus"] > 0
    assert numbers["places"][1]["lost at"]
    assert numbers["errors"]["dsb_score"] > 0.5
    assert numbers["data"]["images"] == 1
    assert max(c["mean"] for c in numbers["changes"].values()) == 0


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ([], "give an image"),
        (["IMAGE", "--at", "5"], "write row and column"),
        (["IMAGE", "--at", "500,1"], "outside the image"),
        (["IMAGE", "--truth", "SMALL"], "must be of one size"),
        (["IMAGE", "--weights", "nobody"], "no weights 'nobody'"),
    ],
)
def test_what_cannot_work_is_told(folder, capsys, more, told):
    tifffile.imwrite(folder / "small.tif", np.ones((9, 9), np.int32))
    places = {"IMAGE": str(folder / "image.tif"), "SMALL": str(folder / "small.tif")}
    command = ["inspect", *(places.get(m, m) for m in more), "--out", str(folder / "out"), "--device", "cpu"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.splitlines()) == 1
