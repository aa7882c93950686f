"""Brown slides: nuclei are found in their own stain where colours hide them."""

import json

import numpy as np
import skimage.data
import tifffile

from napari_deepretina.cli import main
from napari_deepretina.inference.segment import segment, segment_together
from napari_deepretina.inference.settings import make_settings
from napari_deepretina.inference.stacks import segment_stack
from napari_deepretina.model.weights import find
from napari_deepretina.teaching.session import base_of

SAMPLE = skimage.data.immunohistochemistry()
PART = SAMPLE[230:486, 140:396]
ALONE = "only haematoxylin is looked at, without other stains"


def test_the_sample_shows_most_of_its_nuclei(default_model):
    found = segment(SAMPLE, model=default_model)
    assert found.count > 70  # of about 150
    assert found.prediction.notes[0] == ALONE
    assert "specialist" not in found.weights
    assert segment(SAMPLE, model=default_model, specialist="always").count < 20  # in its colours


def test_stains_can_be_asked_for(nuclei_model):
    found = segment(PART, model=nuclei_model)
    assert found.prediction.notes[0] == ALONE
    asked = segment(PART, model=nuclei_model, intensity="haematoxylin")
    assert np.array_equal(asked.labels, found.labels)
    assert found.count > segment(PART, model=nuclei_model, intensity="plain").count + 10
    both = segment_together([PART, PART], nuclei_model, make_settings())
    assert [one.count for one in both] == [found.count] * 2


def test_planes_of_a_stack_are_read_alike(nuclei_model):
    pale = np.full_like(PART, 240)
    pale[100:120, 100:120] = 200
    done = segment_stack(np.stack([PART, pale, PART[::-1]]), "ZYXC", model=nuclei_model)
    assert done.settings.intensity == "haematoxylin"
    assert ALONE in done.notes
    assert not any("specialist" in plane.weights for plane in done.planes.values())
    assert done.planes[0,].count > 10


def test_what_is_taught_is_the_network_that_looked():
    assert base_of(find("nuclei"), PART, make_settings()).stem == "nuclei"
    assert base_of(find("nuclei"), PART, make_settings(specialist="always")).stem == "nuclei-tissue"


def test_stains_are_asked_for_on_the_command_line(tmp_path, capsys):
    tifffile.imwrite(tmp_path / "brown.tif", PART, photometric="rgb")
    tifffile.imwrite(tmp_path / "grey.tif", PART[..., 0])
    out = tmp_path / "out"
    words = ["--weights", "nuclei-small", "--device", "cpu", "--out", str(out), "--intensity", "haematoxylin"]
    assert main(["segment", str(tmp_path), *words]) == 2  # one was skipped
    assert "tells stains apart by their colours" in capsys.readouterr().out
    run = json.loads((out / "run.json").read_text())
    assert run["settings"]["intensity"] == "haematoxylin"
    assert set(run["images"]) == {"brown"}
    assert main(["segment", str(tmp_path), "--intensity", "eosin", "--out", str(tmp_path / "no")]) == 2
    assert "give auto, plain, haematoxylin, haematoxylin+brown, or two values" in capsys.readouterr().err
