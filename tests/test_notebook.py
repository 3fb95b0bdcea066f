"""The notebook that tells the story of Li3PO4 runs, in a version of a minute."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "li3po4.ipynb"
KEPT = NOTEBOOK.parents[1] / "experiments" / "li3po4" / "models" / "fast.safetensors"

SHORT = f"""
EPOCHS = 1
MELT, QUENCH, EQUILIBRATE, HOLD = 50, 100, 50, 400
FIT = (100, 300)
SETTINGS = {{"num_scalar_features": 16, "num_tensor_features": 2, "two_body_hidden": [16]}}
MODEL = {str(KEPT)!r}  # one epoch makes no model that dynamics could run with
"""


@pytest.mark.slow
def test_the_notebook_runs_from_data_to_diffusion(shared, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("ALLEGRO_JAX_SHARED", str(shared.resolve()))
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (parameters,) = (
        cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())
    )
    parameters.source = SHORT
    nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    said = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ())
    )
    found = dict(re.findall(r"^(.+): D\(Li\) = (-?[\d.]+) ± [\d.]+ ", said, re.MULTILINE))
    assert set(found) == {"first principles", "Allegro"}
    assert "O around P: 100.0% have 4" in said
    assert (tmp_path / "li3po4-notebook" / "run" / "log.csv").is_file()
