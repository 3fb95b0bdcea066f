"""The documentation keeps up with the code: settings are described, links lead somewhere."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from allegro_jax.config import NONLINEARITIES, AllegroConfig
from allegro_jax.train.config import DataConfig, FitConfig, TrainingConfig

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("experiments/**/README.md")]


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("model.md", [field.name for field in dataclasses.fields(AllegroConfig)]),
        ("model.md", NONLINEARITIES),
        ("training.md", [field.name for field in dataclasses.fields(DataConfig)]),
        ("training.md", [field.name for field in dataclasses.fields(FitConfig)]),
        ("training.md", [field.name for field in dataclasses.fields(TrainingConfig)]),
    ],
    ids=["model", "nonlinearities", "data", "training", "top level"],
)
def test_every_setting_is_described(page, names):
    text = (ROOT / "docs" / page).read_text()
    assert [name for name in names if f"`{name}`" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
