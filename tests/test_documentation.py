"""The documentation keeps up with the code: settings are described, examples can be used."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import shlex
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import md
from allegro_jax import cli
from allegro_jax.config import NONLINEARITIES, AllegroConfig
from allegro_jax.data.config import DataConfig
from allegro_jax.train.config import FineTuneConfig, FitConfig, TrainingConfig, config_from_dict
from md import names, potential_file, run_file

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("experiments/**/README.md")]


def words(function: Callable) -> list[str]:
    """What a function takes by name only: its settings."""
    parameters = inspect.signature(function).parameters.values()
    return [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("model.md", [field.name for field in dataclasses.fields(AllegroConfig)]),
        ("model.md", NONLINEARITIES),
        ("training.md", [field.name for field in dataclasses.fields(DataConfig)]),
        ("training.md", [field.name for field in dataclasses.fields(FitConfig)]),
        ("training.md", [field.name for field in dataclasses.fields(TrainingConfig)]),
        ("training.md", [field.name for field in dataclasses.fields(FineTuneConfig)]),
        ("dynamics.md", [field.name for field in dataclasses.fields(md.Stage)]),
        ("dynamics.md", [field.name for field in dataclasses.fields(md.Group)]),
        ("dynamics.md", [field.name for field in dataclasses.fields(md.TrajectorySettings)]),
        ("dynamics.md", [field.name for field in dataclasses.fields(md.Uncertainty)]),
        ("dynamics.md", ["stages", *words(md.simulate)]),
        ("dynamics.md", words(md.relax)),
        ("analysis.md", [*words(md.analyse), *names.QUANTITIES]),
        ("dynamics.md", [*names.ENSEMBLES, *names.COUPLINGS, *names.TRAJECTORY_FORMATS]),
    ],
    ids=[
        *("model", "nonlinearities", "data", "training", "top level", "fine-tuning"),
        *("stage", "group", "trajectory", "uncertainty", "simulate", "relax", "analyse", "names"),
    ],
)
def test_every_setting_is_described(page, names):
    text = (ROOT / "docs" / page).read_text()
    assert [name for name in names if f"`{name}`" not in text] == []


@pytest.mark.parametrize("kinds", [run_file.OBSERVABLES, run_file.VARIABLES, run_file.BIASES])
def test_every_kind_is_described_with_its_words(kinds):
    rows = (ROOT / "docs" / "dynamics.md").read_text().splitlines()
    for kind, make in kinds.items():
        (row,) = [row for row in rows if row.startswith(f"| `{kind}` |")]
        taken = set(inspect.signature(make).parameters) - {"name", "period"}
        assert [word for word in sorted(taken) if f"`{word}`" not in row] == [], kind


@pytest.mark.parametrize(
    ("command", "page"),
    [*((one, "dynamics") for one in ("md", "relax", "join")), ("analyse", "analysis")],
)
def test_every_option_is_described(command, page):
    """As an option, or as the word of Python and YAML that it is without its unit."""
    text = (ROOT / "docs" / f"{page}.md").read_text()
    (commands,) = [
        action.choices
        for action in cli._parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    ]
    for action in commands[command]._actions:
        unit = "(_K|_s|_fs|_per_fs|_GPa|_per_GPa)?"
        described = [rf"{option}\b" for option in action.option_strings if option[:2] == "--"]
        described += [f"`{action.dest}{unit}`", rf"\b{action.metavar}\b"]
        assert action.dest == "help" or any(re.search(one, text) for one in described), action


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def blocks(page: Path, language: str = r"\w*") -> list[str]:
    """The blocks of code on a page."""
    found = re.findall(
        rf"^( *)```{language}\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE
    )
    return [textwrap.dedent(code) for _, code in found]


def commands(page: Path) -> list[list[str]]:
    """The allegro-jax command lines in a page's blocks of code, but not [optional] forms."""
    lines = "\n".join(blocks(page)).replace("\\\n", " ").splitlines()
    typed = [line for line in lines if line.strip().startswith("allegro-jax ") and "[" not in line]
    return [shlex.split(line, comments=True)[1:] for line in typed]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_can_be_typed(page):
    for arguments in commands(page):
        cli._parser().parse_args(arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_yaml_can_be_loaded(page, tmp_path):
    """Configurations of training, potentials and runs alike."""
    for number, code in enumerate(blocks(page, "yaml")):
        content = yaml.safe_load(code)
        path = tmp_path / f"{number}.yaml"
        path.write_text(code)
        if "data" in content:
            needed = [*content["data"].values()]
            needed += [content.get("fine_tune", {}).get(key) for key in ("model", "replay")]
            for name in filter(None, needed):
                if not str(name).startswith("set:"):
                    (tmp_path / name).touch()
            sections = {} if "fine_tune" in content else {"model": {"cutoff": 5.0}}
            config_from_dict({**sections, "output": "out", **content}, tmp_path)
        elif "potential" in content:
            potential_file.load(path)
        else:
            run_file.load(path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_is_python(page):
    for code in blocks(page, "python"):
        compile(code, str(page), "exec")


def test_every_file_of_the_engine_has_its_place():
    text = (ROOT / "docs" / "architecture.md").read_text()
    files = [path.name for path in ROOT.glob("md/*.py") if path.name != "__init__.py"]
    assert [name for name in sorted(files) if not re.search(rf"\b{name}\b", text)] == []
