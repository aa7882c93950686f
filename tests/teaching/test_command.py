"""``napari-deepretina teach``."""

import json

import numpy as np
import pytest

from napari_deepretina.cli import main
from napari_deepretina.data.files import read_image
from napari_deepretina.document import of_result
from napari_deepretina.document.store import save
from napari_deepretina.export.tiff import write_image


@pytest.fixture
def files(scene, tmp_path):
    """An image, and labels of it that were drawn from scratch, for half of its nuclei."""
    image, truth, _ = scene
    write_image(image, tmp_path / "pale.png")
    write_image(np.where(truth <= 12, truth, 0).astype(np.uint16), tmp_path / "labels.tif")
    return tmp_path


def teach(files, *more, labels="labels.tif"):
    network = ["--weights", "nuclei-small", "--specialist", "never"]
    return main(["teach", str(files / "pale.png"), str(files / labels), *network, *more])


def test_an_image_with_a_few_labels_makes_weights(files, capsys):
    before = {path: path.read_bytes() for path in files.iterdir()}
    out = files / "mine.safetensors"
    assert teach(files, "--out", str(out)) == 0
    assert "Teaching helped" in capsys.readouterr().out
    assert all(path.read_bytes() == content for path, content in before.items())
    assert main(["weights", "info", str(out)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["taught"] | {"before": 0, "after": 0} == {
        "base": "nuclei-small",
        "sha256": told["taught"]["sha256"],
        "corrections": 12,
        "images": 1,
        "before": 0,
        "after": 0,
    }
    assert main(["segment", str(files / "pale.png"), "--weights", str(out), "--out", str(files / "o")]) == 0
    assert read_image(files / "o" / "pale.tif").max() > 0
    assert json.loads((files / "o" / "run.json").read_text())["weights"]["name"] == "mine"
    assert teach(files, "--out", str(out)) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_file_of_nuclei_knows_what_was_corrected(files, scene, capsys):
    _, _truth, found = scene
    instances = found.instances
    parts = {(): (found.prediction.raw, instances, instances.ids)}
    document = of_result(found.labels, parts, found.settings.postprocessing(_info()))
    for label in document.present[:2].tolist():
        document.accept(label)
    save(document, files / "two.nuclei")
    assert teach(files, "--out", str(files / "m.safetensors"), labels="two.nuclei") == 2
    assert "2 corrections are too few" in capsys.readouterr().err
    assert not (files / "m.safetensors").exists()


def _info():
    from napari_deepretina.model.weights import find, read_info

    return read_info(find("nuclei-small"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("pale.png", "labels.tif", "pale.png"), "has no partner"),
        (("pale.png", "pale.png"), "label"),
        (("pale.png", "nothing.tif"), "nothing.tif"),
        (("pale.png", "small.tif"), "shape (8, 8)"),
    ],
)
def test_what_does_not_go_together_is_told_in_a_line(files, capsys, arguments, told):
    write_image(np.ones((8, 8), np.uint16), files / "small.tif")
    paths = [str(files / name) for name in arguments]
    assert main(["teach", *paths, "--weights", "nuclei-small", "--out", str(files / "m.safetensors")]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert len(err.strip().splitlines()) == 1
    assert not (files / "m.safetensors").exists()
