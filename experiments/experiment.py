"""What an experiment is: the content of its ``experiment.yaml``, and the results kept beside it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ase.io.formats import string2index


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a data file comes from.

    Attributes:
        source: a file in ``../shared/data``.
        frames: which of its frames, as Python slices them (``":100"``); ``None`` for all.
        without: which of them not, likewise, counted in the whole file.
    """

    source: str
    frames: str | None = None
    without: str | None = None

    @classmethod
    def of(cls, said: str | Mapping[str, str]) -> Origin:
        """From YAML: ``water/train.xyz``, or ``{source: water/train.xyz, frames: ":100"}``."""
        return cls(said) if isinstance(said, str) else cls(**said)

    def chosen(self, number: int) -> list[int]:
        """Which of so many frames."""
        everything = range(number)
        left_out = set(everything[string2index(self.without)]) if self.without else set()
        kept = everything[string2index(self.frames)] if self.frames else everything
        return [frame for frame in kept if frame not in left_out]


@dataclasses.dataclass(frozen=True)
class Model:
    """One line of the table: a configuration, trained with several seeds.

    Attributes:
        config: a training configuration in the experiment's folder.
        tests: data files by the name of their columns.
        settings: ``key=value``, replacing values of the configuration.
        seeds: one training each.
        watched: the validation error that the slope of the learning curve is taken of.
        label: its name in the table; the key of the model unless given.
        published: figures of others for this line, as :class:`Experiment` has them for all.
    """

    config: str
    tests: Mapping[str, str]
    settings: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    watched: str = "forces_rmse"
    label: str = ""
    published: Mapping[str, tuple[float | None, ...]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of the table: an error on a test set (or on the validation frames).

    Attributes:
        test: the name of a test; ``"valid"`` for validation.
        error: a key of the evaluation's report, ``"forces_rmse"``.
        title: of the column, with its unit.
        scale: from eV and Å to that unit.
    """

    test: str
    error: str
    title: str
    scale: float = 1000.0


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A folder with configurations, results and a README.

    Attributes:
        folder: the folder.
        title: what it reproduces.
        data_source: where the data come from, for messages.
        files: origin of every file in the folder ``data``.
        models: what to train, by name.
        columns: of the table.
        published: figures of others: a value (or ``None``) for every column, by name.
    """

    folder: Path
    title: str
    data_source: str
    files: Mapping[str, Origin]
    models: Mapping[str, Model]
    columns: tuple[Column, ...]
    published: Mapping[str, tuple[float | None, ...]]

    def results(self) -> dict[str, dict[str, Any]]:
        """Kept results: by model, then by seed."""
        path = self.folder / "results.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    def keep(self, model: str, seed: int, found: Mapping[str, Any]) -> None:
        """Write the result of one training into ``results.json``."""
        results = self.results()
        results.setdefault(model, {})[str(seed)] = dict(found)
        (self.folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")


def load(folder: Path) -> Experiment:
    """Read ``experiment.yaml``.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a key is missing or unknown, or rows and columns do not match.
    """
    path = folder / "experiment.yaml"
    if not path.is_file():
        known = sorted(one.parent.name for one in folder.parent.glob("*/experiment.yaml"))
        raise FileNotFoundError(f"{path}: no such experiment; there are {', '.join(known)}")
    content = yaml.safe_load(path.read_text())
    try:
        experiment = Experiment(
            folder=folder,
            title=content.pop("title"),
            data_source=content.pop("data_source"),
            files={name: Origin.of(one) for name, one in content.pop("files").items()},
            models={
                name: Model(
                    **{
                        key: tuple(value) if isinstance(value, list) else value
                        for key, value in one.items()
                    }
                )
                for name, one in content.pop("models").items()
            },
            columns=tuple(Column(**one) for one in content.pop("columns")),
            published={
                name: tuple(row) for name, row in (content.pop("published", None) or {}).items()
            },
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None
    if content:
        raise ValueError(f"{path}: unknown keys {', '.join(content)}")
    width = len(experiment.columns)
    for one in (experiment, *experiment.models.values()):
        for name, row in one.published.items():
            if len(row) != width:
                raise ValueError(f"{path}: published {name}: {len(row)} values, not {width}")
    return experiment
