"""The notebook runs from the first cell to the last, and draws what it says."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "training" / "notebooks" / "what_the_network_sees.ipynb"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning", "ignore::ResourceWarning")
def test_the_notebook_runs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(c.get("outputs") for c in notebook.cells), "commit it without outputs"
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    pictures = [o for c in notebook.cells for o in c.get("outputs", ()) if "image/png" in o.get("data", {})]
    assert len(pictures) == 7
    told = "".join(o.get("text", "") for c in notebook.cells for o in c.get("outputs", ()))
    assert "12 images" in told
    assert "Nucleus 3" in told
    assert "threshold is 0.9995" in told
