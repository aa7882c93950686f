"""The notebooks run from the first cell to the last, and draw what they say."""

import ast
import tempfile
from pathlib import Path

import nbformat
import pytest
from matplotlib.figure import Figure

from napari_deepretina.inspection.figures import png

FOLDER = Path(__file__).parents[2] / "training" / "notebooks"
SAID = {
    "demo": (1, ["objects of nucleus", "score ", "AP"]),
    "train_shapes": (2, ["('circle', 'square', 'triangle')", "train 6 stage main", "mask_ap"]),
    "inspect_data": (7, ["8 images"]),
    "inspect_model": (7, ["'positive':", "Nucleus 3", "threshold is 0.9995", "AP50"]),
    "inspect_weights": (2, ["dead filters", "regions.mask_predictor.mask_fcn_logits.bias", "'relative'"]),
}


def run(notebook):
    """Run all cells in one namespace as a kernel would; the figures that cells end with."""
    names, figures = {"__name__": "__main__"}, []
    for number, cell in enumerate(c for c in notebook.cells if c.cell_type == "code"):
        lines = [line for line in cell.source.splitlines() if not line.startswith("%")]
        tree = ast.parse("\n".join(lines))
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"cell {number}", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names)
            figures += [value] if isinstance(value, Figure) else []
    return figures


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning", "ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
@pytest.mark.parametrize("name", SAID)
def test_the_notebook_runs(name, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where a run of training lands
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not any(c.get("outputs") for c in notebook.cells), "commit it without outputs"
    pictures, said = SAID[name]
    figures = run(notebook)
    assert len(figures) == pictures
    sizes = [len(png(figure, 40)) for figure in figures]
    assert all(1_000 < size < 1_500_000 for size in sizes), sizes
    told = capsys.readouterr().out
    assert [part for part in said if part not in told] == []


def test_every_notebook_is_tested():
    assert {p.stem for p in FOLDER.glob("*.ipynb")} == set(SAID)
