"""Arrows between rooms run one way."""

import subprocess
import sys

import pytest

GUI = ("napari", "qtpy", "PyQt6", "PyQt5", "PySide6", "magicgui", "superqt", "vispy")
TORCH = ("torch", "torchvision", "lightning")


def import_all(packages, blocked):
    """Import every module of some packages in a fresh interpreter where others cannot be imported."""
    script = f"""
import importlib, pkgutil, sys
for name in {blocked!r}:
    sys.modules[name] = None
for package in {packages!r}:
    module = importlib.import_module(package)
    for info in pkgutil.walk_packages(getattr(module, "__path__", []), package + "."):
        if "._widgets" not in info.name and not info.name.endswith("__main__"):
            importlib.import_module(info.name)
"""
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("packages", "blocked"),
    [
        (("napari_deepretina",), GUI),
        (
            tuple(f"napari_deepretina.{r}" for r in ("instances", "postprocess", "evaluation", "document")),
            GUI + TORCH,
        ),
    ],
    ids=["engines without Qt and napari", "arrays without torch"],
)
def test_rooms_import_without_what_they_must_not_know(packages, blocked):
    done = import_all(packages, blocked)
    assert done.returncode == 0, done.stderr


def test_the_block_works():
    assert import_all(("napari_deepretina._widgets.segment",), GUI).returncode != 0


@pytest.mark.parametrize(
    ("script", "heavy"),
    [
        ("import napari_deepretina", ("torch", "numpy", "qtpy", "pydantic")),
        ("sys.argv[1:] = ['--help']", ("torch", "numpy", "qtpy", "pydantic")),
        ("sys.argv[1:] = ['recipes', 'list']", ("torch", "qtpy")),
        ("sys.argv[1:] = ['weights', 'list']", ("torch", "qtpy")),
        ("from napari_deepretina._widgets import segment, tune, train, inspect", ("torch",)),
    ],
    ids=["the package", "--help", "recipes list", "weights list", "docks"],
)
def test_what_opens_at_once_leaves_the_heavy_parts_alone(script, heavy):
    """Nobody waits for torch but who needs it, and in a window it would stand still meanwhile."""
    lines = [
        "import contextlib, os, sys", script, "from napari_deepretina.cli import main",
        "sys.stdout, out = open(os.devnull, 'w'), sys.stdout",
        "with contextlib.suppress(SystemExit):",
        "    len(sys.argv) > 1 and main()",
        "sys.stdout = out",
        f"print([m for m in {heavy} if m in sys.modules])",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def options_outside_parentheses(text):
    """Options of the command line in a message that a window could not leave out."""
    import re

    return re.findall(r"--[a-z]+", re.sub(r"\(--[^()]*\)", "", text))


def test_messages_name_options_only_where_a_window_leaves_them_out():
    import ast
    from pathlib import Path

    import napari_deepretina

    package = Path(napari_deepretina.__file__).parent
    found = []
    for path in sorted(package.rglob("*.py")):
        if path.name.startswith(("cli", "__main__")):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Raise):
                texts = [
                    n.value
                    for n in ast.walk(node)
                    if isinstance(n, ast.Constant) and isinstance(n.value, str)
                ]
                found += [(path.name, o) for o in options_outside_parentheses("".join(texts))]
    assert found == []
    assert options_outside_parentheses("pass --overwrite (--resume)") == ["--overwrite"]


def test_a_window_shows_no_options():
    from napari_deepretina.errors import in_a_window

    assert in_a_window("it is there: keep it (--resume), or go (--part val)") == "It is there: keep it, or go"
    assert in_a_window("") == ""
