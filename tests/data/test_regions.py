"""Regions: GeoJSON in and out, what lies inside, and names in the table."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_deepretina.data.regions import (
    Region,
    inside_any,
    names_at,
    read_regions,
    to_geojson,
    with_regions,
)
from napari_deepretina.errors import UserError

SQUARE = ((2.0, 3.0), (12.0, 3.0), (12.0, 13.0), (2.0, 13.0))
HOLE = ((5.0, 6.0), (9.0, 6.0), (9.0, 10.0), (5.0, 10.0))


def qupath(**properties):
    """A feature as QuPath exports annotations."""
    ring = [*map(list, SQUARE), list(SQUARE[0])]
    return {
        "type": "Feature",
        "id": "8c2c",
        "geometry": {"type": "Polygon", "coordinates": [ring, [*map(list, HOLE), list(HOLE[0])]]},
        "properties": {"objectType": "annotation", **properties},
    }


@pytest.mark.parametrize(
    ("properties", "name"),
    [
        ({"name": "gland", "classification": {"name": "Tumour"}}, "gland"),
        ({"classification": {"name": "Tumour", "color": [200, 0, 0]}}, "Tumour"),
        ({}, "region 1"),
        (None, "region 1"),
    ],
)
@pytest.mark.parametrize(
    "wrap", [lambda f: {"type": "FeatureCollection", "features": [f]}, lambda f: [f], lambda f: f]
)
def test_annotations_of_qupath_are_read(tmp_path, properties, name, wrap):
    path = tmp_path / "a.geojson"
    feature = qupath() if properties is None else qupath(**properties)
    if properties is None:
        feature["properties"] = None
    path.write_text(json.dumps(wrap(feature)))
    (region,) = read_regions(path)
    assert region.name == name
    assert region.rings == (SQUARE, HOLE)
    points = np.array([[3.0, 4.0], [7.0, 8.0], [20.0, 20.0]])
    assert region.contains(points).tolist() == [True, False, False]
    assert region.box((100, 100)) == (3, 2, 13, 12)
    assert region.box((3, 2)) is None


def test_what_is_no_polygon_marks_no_region(tmp_path):
    path = tmp_path / "a.geojson"
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}, "properties": {}}
    path.write_text(json.dumps([point, qupath(name="x")]))
    assert [r.name for r in read_regions(path)] == ["x"]
    path.write_text(json.dumps([point]))
    with pytest.raises(UserError, match="holds no polygon"):
        read_regions(path)


def test_written_regions_are_read_again(tmp_path):
    regions = (Region(name="a b", rings=(SQUARE, HOLE)), Region(name="c", rings=(HOLE,)))
    (tmp_path / "r.geojson").write_text(to_geojson(regions))
    assert read_regions(tmp_path / "r.geojson") == regions


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "7",
        "{}",
        "[[[]]]",
        '{"type": "FeatureCollection"}',
        '{"type": "Feature", "geometry": {"type": "Polygon"}}',
        '{"type": "Polygon", "coordinates": [[[1, 2], [3, 4]]]}',
        '{"type": "Polygon", "coordinates": [[[1, 2], [3, "x"], [5, 6]]]}',
        '{"type": "Polygon", "coordinates": [[[1, 2], [3, 4], [5, 1e300]]]}',
        '{"type": "Polygon", "coordinates": [[[1, 2], [3, 4], [5, NaN]]]}',
        '{"type": "Polygon", "coordinates": [[[1], [3], [5]]]}',
        '{"type": "Polygon", "coordinates": 5}',
        "[" * 100_000,
    ],
)
def test_damaged_files_are_reported_in_a_sentence(tmp_path, content):
    path = tmp_path / "bad.geojson"
    path.write_text(content)
    with pytest.raises(UserError, match=r"bad\.geojson"):
        read_regions(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_regions(tmp_path / "none.geojson")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.recursive(
        st.none() | st.floats() | st.text(max_size=8),
        lambda c: (
            st.lists(c, max_size=4)
            | st.dictionaries(
                st.sampled_from(["type", "features", "geometry", "coordinates", "properties"]),
                c | st.sampled_from(["Feature", "Polygon", "MultiPolygon", "FeatureCollection"]),
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_anything_else_is_a_sentence_too(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("g") / "x.geojson"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError):
        read_regions(path)


def test_nuclei_belong_to_the_region_that_holds_or_touches_them():
    regions = (
        Region(name="a", rings=(SQUARE,)),
        Region(name="b", rings=(((30, 0), (40, 0), (40, 9), (30, 9)),)),
    )
    x, y = np.array([6.0, 13.0, 35.0, 27.0, 60.0, np.nan]), np.array([6.0, 7.0, 4.0, 4.0, 60.0, 1.0])
    names = names_at(regions, x, y, np.array([50, 50, 50, 50, 50, 50]))
    assert names.tolist() == ["a", "a", "b", "b", "", ""]
    assert inside_any((), np.zeros((3, 2))).all()
    table = {"x": x, "y": y, "area": np.full(6, 50)}
    assert "region" not in with_regions(table, ())
    assert list(with_regions(table, regions))[-1] == "region"
