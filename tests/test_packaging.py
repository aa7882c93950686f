"""What the package asks for: no version of a library with a known hole."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
FLOORS = {
    "torch": "2.10",
    "pillow": "10.0.1",
    "dask": "2024.11.2",
    "distributed": "2024.11.2",
    "tifffile": "2025.5.21",
    "imagecodecs": "2024.9.22",
}


def asked_for():
    extras = PROJECT["optional-dependencies"].values()
    return [Requirement(r) for r in (*PROJECT["dependencies"], *(r for e in extras for r in e))]


@pytest.mark.parametrize(("name", "floor"), FLOORS.items())
def test_versions_with_known_holes_are_not_allowed(name, floor):
    found = [r for r in asked_for() if r.name == name]
    assert found
    for requirement in found:
        assert floor in requirement.specifier
        below = ".".join([*floor.split(".")[:-1], str(int(floor.split(".")[-1]) - 1)])
        assert below not in requirement.specifier


def test_pages_of_help_and_other_files_are_in_the_wheel():
    root = Path(__file__).parents[1]
    settings = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    patterns = settings["package-data"]["napari_deepretina"]
    package = root / "src" / "napari_deepretina"
    shipped = {path for pattern in patterns for path in package.glob(pattern)}
    others = {p for p in package.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert others - shipped == set()
    assert {p.stem for p in shipped if p.suffix == ".md"} == {"segment", "tune", "train", "inspect"}
