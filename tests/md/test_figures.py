"""The figure of a run has the panels that its log and its tables call for."""

from __future__ import annotations

import matplotlib.figure
import numpy as np
import pytest

from md import figures


@pytest.fixture
def labels(monkeypatch):
    """The labels of the panels of whatever was drawn last."""
    drawn = []
    original = matplotlib.figure.Figure.savefig

    def savefig(figure, *args, **kwargs):
        drawn[:] = [axes.get_ylabel().replace("\n", " ") for axes in figure.axes]
        return original(figure, *args, **kwargs)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", savefig)
    return drawn


def log(volume):
    columns = ("temperature_K", "potential_eV", "kinetic_eV", "conserved_eV", "pressure_GPa")
    time = np.arange(5.0)
    return {"time_fs": time, **{name: time**2 for name in columns}, "volume_A3": volume}


def test_constant_or_unknown_volume_is_not_drawn(tmp_path, labels):
    for volume in (np.full(5, 100.0), np.full(5, np.nan)):
        figures.draw(log(volume), tmp_path / "run.png", atoms=8)
        assert labels == [
            "temperature (K)",
            "energy − start (meV/atom)",
            "conserved − start (meV/atom)",
        ]
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")


def test_a_moving_cell_and_tables_are_drawn(tmp_path, labels):
    axis = np.linspace(0, 1, 4)
    tables = {
        "rdf": {"r_A": axis, "g_Li_O": axis, "n_Li_O": axis},
        "cluster": {"r_A": axis, "n_Li_O": axis},
        "adf": {"angle_degree": axis, "p_O_Li_O_per_degree": axis},
        "msd": {"time_fs": axis, "msd_Li_A2": axis},
        "vacf": {
            "time_fs": axis,
            "vacf_Li_A2_per_fs2": axis,
            "frequency_THz": axis,
            "vdos_Li_per_THz": axis,
        },
        "mine": {"value_mean": axis},
    }
    columns = log(np.linspace(100, 101, 5))
    columns["target_temperature_K"] = np.full(5, 300.0)
    figures.draw(columns, tmp_path / "run.png", atoms=8, tables=tables)
    assert labels[3:] == [
        "pressure (GPa)",
        "volume (Å³/atom)",
        "g(r)",
        "n(r)",
        "density (1/°)",
        "msd (Å²)",
        "density of states (1/THz)",
    ]
