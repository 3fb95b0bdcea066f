"""The documentation keeps up with the code: settings are described, links lead somewhere."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from allegro_jax import cli
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


def commands(page: Path) -> list[list[str]]:
    """The allegro-jax command lines in a page's blocks of code, but not [optional] forms."""
    blocks = re.findall(r"^ *```\w*\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    typed = [line for line in lines if line.strip().startswith("allegro-jax ") and "[" not in line]
    return [shlex.split(line, comments=True)[1:] for line in typed]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_can_be_typed(page):
    for arguments in commands(page):
        cli._parser().parse_args(arguments)
