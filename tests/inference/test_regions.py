"""Looking for nuclei in regions only: on the command line and in Python."""

import csv
import json

import numpy as np
import pytest
import tifffile

from napari_deepretina.cli import main
from napari_deepretina.data.regions import Region, read_regions, to_geojson
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.document import store
from napari_deepretina.document.making import of_result
from napari_deepretina.errors import UserError
from napari_deepretina.evaluation import match
from napari_deepretina.export.geojson import geojson_content
from napari_deepretina.inference.segment import segment
from napari_deepretina.instances import Instances
from napari_deepretina.postprocess import PostprocessSettings

LEFT = Region(name="left", rings=(((10, 10), (110, 10), (110, 150), (10, 150)),))
RIGHT = Region(name="right", rings=(((150, 20), (240, 20), (195, 160)),))


@pytest.fixture(scope="module")
def field():
    return synthetic_nuclei((180, 256), 40, diameter=20, seed=5)


def middles(labels):
    return {i: np.argwhere(labels == i).mean(axis=0)[::-1] + 0.5 for i in np.unique(labels)[1:]}


def test_nuclei_of_regions_are_those_of_the_whole_image_inside_them(field, nuclei_model):
    image, _ = field
    whole = segment(image, model=nuclei_model)
    part = segment(image, model=nuclei_model, regions=(LEFT, RIGHT))
    inside = {
        i for i, p in middles(whole.labels).items() if LEFT.contains(p[None])[0] or RIGHT.contains(p[None])[0]
    }
    kept = np.where(np.isin(whole.labels, list(inside)), whole.labels, 0)
    assert 5 < len(inside) < whole.count
    hits, _, _ = match(kept, part.labels).counts(0.7)
    assert hits >= 0.9 * max(len(inside), part.count)
    assert set(part.features()["region"]) == {"left", "right"}
    assert "region" not in whole.features()
    assert "2 regions" in " ".join(part.prediction.notes)


def test_regions_outside_the_image_are_refused(field, nuclei_model):
    with pytest.raises(UserError, match="outside the image"):
        segment(
            field[0], model=nuclei_model, regions=(Region(name="x", rings=(((900, 0), (990, 0), (990, 9)),)),)
        )


def test_the_command_line_takes_geojson(tmp_path, field, nuclei_model):
    image, _ = field
    tifffile.imwrite(tmp_path / "cells.tif", image)
    regions = tmp_path / "r.geojson"
    regions.write_text(to_geojson((LEFT, RIGHT)))
    out = tmp_path / "out"
    command = ["segment", str(tmp_path / "cells.tif"), "--regions", str(regions)]
    command += ["--weights", "nuclei-small"]
    assert main([*command, "--out", str(out), "--format", "labels,features,geojson"]) == 0
    expected = segment(image, model=nuclei_model, regions=(LEFT, RIGHT))
    assert np.array_equal(tifffile.imread(out / "cells.tif"), expected.labels)
    with (out / "features.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["region"] for r in rows] == expected.features()["region"].tolist()
    outlines = read_regions(out / "cells.geojson")
    assert [r.name for r in outlines] == [str(i) for i in range(1, expected.count + 1)]
    regions.unlink()  # run.json holds the outlines
    assert main(["segment", "--replay", str(out / "run.json"), "--out", str(tmp_path / "again")]) == 0
    assert np.array_equal(tifffile.imread(tmp_path / "again" / "cells.tif"), expected.labels)


def test_a_folder_of_regions_has_one_file_an_image(tmp_path, field, capsys):
    images, regions = tmp_path / "images", tmp_path / "regions"
    images.mkdir()
    regions.mkdir()
    for name, region in (("a", LEFT), ("b", RIGHT), ("c", None)):
        tifffile.imwrite(images / f"{name}.tif", field[0])
        if region is not None:
            (regions / f"{name}.geojson").write_text(to_geojson((region,)))
    done = main(["segment", str(images), "--out", str(tmp_path / "out"), "--regions", str(regions)])
    assert done == 2
    assert "c.geojson is not there" in capsys.readouterr().err
    left, right = (tifffile.imread(tmp_path / "out" / f"{n}.tif") for n in "ab")
    assert left[:, :100].any()
    assert not left[:, 130:].any()
    assert right[:, 150:].any()
    assert not right[:, :130].any()


def test_channels_by_name(tmp_path, field, nuclei_model, capsys):
    image, _ = field
    stack = np.stack([np.zeros_like(image), image])
    path = tmp_path / "two.ome.tif"
    tifffile.imwrite(path, stack, metadata={"axes": "CYX", "Channel": {"Name": ["actin", "DAPI"]}})
    command = ["segment", str(path), "--out", str(tmp_path / "out"), "--weights", "nuclei-small"]
    assert main([*command, "--channel", "dapi"]) == 0
    expected = segment(image, model=nuclei_model)
    assert np.array_equal(tifffile.imread(tmp_path / "out" / "two.tif"), expected.labels)
    assert json.loads((tmp_path / "out" / "run.json").read_text())["settings"]["channel"] == "dapi"
    assert main([*command, "--overwrite", "--channel", "tubulin"]) == 2
    assert "they are called actin, DAPI" in capsys.readouterr().err
    colour = np.stack([np.zeros_like(image), image, np.zeros_like(image)], axis=-1)
    assert np.array_equal(segment(colour, model=nuclei_model, channel="green").labels, expected.labels)
    with pytest.raises(UserError, match="does not name its channels"):
        segment(image, model=nuclei_model, channel="green")


def test_documents_keep_their_regions(tmp_path, field, nuclei_model):
    found = segment(field[0], model=nuclei_model, regions=(LEFT,))
    made = {(): (found.prediction.raw, found.instances, found.instances.ids)}
    document = of_result(found.labels, made, PostprocessSettings(), regions=found.settings.regions)
    assert set(document.table()["region"]) == {"left"}
    store.save(document, tmp_path / "x.nuclei")
    again, _ = store.load(tmp_path / "x.nuclei")
    assert again.regions == (LEFT,)
    assert again.table()["region"].tolist() == document.table()["region"].tolist()


def test_outlines_for_qupath_keep_pieces_and_holes():
    labels = np.zeros((40, 40), np.int32)
    labels[2:20, 2:20] = 1
    labels[8:12, 8:12] = 0
    labels[30:36, 30:36] = 1
    labels[25:28, 5:9] = 7
    content = geojson_content(Instances.from_labels(labels))
    first, second = content["features"]
    assert first["geometry"]["type"] == "MultiPolygon"
    assert [len(polygon) for polygon in first["geometry"]["coordinates"]] == [2, 1]
    assert (second["geometry"]["type"], second["properties"]["name"]) == ("Polygon", "7")
    ring = second["geometry"]["coordinates"][0]
    assert ring[0] == ring[-1]
    assert np.min(ring, axis=0).tolist() == [5, 25]
    assert np.max(ring, axis=0).tolist() == [9, 28]
    assert second["properties"]["measurements"]["Area px"] == 12
