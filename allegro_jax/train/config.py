"""What to train, on what, and how: one YAML file, checked when it is read.

The smallest useful file::

    data:
      train: frames.xyz
    model:
      cutoff: 5.0
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from allegro_jax.config import AllegroConfig
from allegro_jax.data.frames import LabelKeys

OPTIMISERS = ("adam", "adamw", "amsgrad")
SCHEDULES = ("cosine", "exponential", "plateau", "constant")
PRECISIONS = ("float32", "float64")
REFERENCES = ("auto", "isolated_atoms", "least_squares")


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where frames come from.

    Attributes:
        train: files with training frames, in any format ASE reads.
        valid: files with validation frames; or the share (below 1) or number (1 and above) of
            the training frames to set aside, drawn at random.
        test: files to evaluate with the finished model.
        energy_key, forces_key, stress_key: names of the labels in the files.
        isolated_atoms: energies (eV) of isolated atoms by symbol, or a file with one frame each.
        reference_energies: where the per-species energies come from: ``isolated_atoms`` (above, or
            single-atom frames among the training frames), ``least_squares`` over the training
            frames, or ``auto``: the former where they are given.
    """

    train: tuple[Path, ...]
    valid: tuple[Path, ...] | float = 0.1
    test: tuple[Path, ...] = ()
    energy_key: str = "energy"
    forces_key: str = "forces"
    stress_key: str = "stress"
    isolated_atoms: Path | Mapping[str, float] | None = None
    reference_energies: str = "auto"

    @property
    def keys(self) -> LabelKeys:
        return LabelKeys(self.energy_key, self.forces_key, self.stress_key)


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """How to train (the section ``training``).

    Attributes:
        epochs: passes over the training frames.
        batch_size: frames per step.
        optimiser: ``adam``, ``adamw`` or ``amsgrad``.
        learning_rate: the highest learning rate. Weights are of order one (their normalisation is
            applied at evaluation), hence the large value.
        weight_decay: of adamw.
        clip: largest norm of a gradient; longer ones are shortened.
        schedule: ``cosine`` to ``final_learning_rate``, ``exponential`` to it, ``plateau`` (times
            ``plateau_factor`` after ``plateau_patience`` epochs without a better validation), or
            ``constant``.
        warmup_epochs: the learning rate rises linearly over them.
        final_learning_rate: as a share of ``learning_rate``.
        ema: decay of the moving average of weights that is validated and kept; 0 for none.
        energy_weight, forces_weight, stress_weight: of the loss (see :class:`~.loss.Loss`).
        precision: ``float32`` or ``float64``.
        patience: stop after so many epochs without a better validation; ``null`` for never.
        max_minutes: stop after this time, at the end of an epoch; ``null`` for never.
        checkpoint_minutes: least time between two checkpoints (0: after every epoch). One is
            always written at the end, also of an interrupted run.
        row_groups: groups of rows that a batch is padded in.
        block_slots: neighbour slots evaluated at once; ``null`` chooses for the hardware.
    """

    epochs: int = 200
    batch_size: int = 5
    optimiser: str = "adam"
    learning_rate: float = 2e-2
    weight_decay: float = 0.0
    clip: float = 10.0
    schedule: str = "cosine"
    warmup_epochs: float = 1.0
    final_learning_rate: float = 1e-3
    plateau_factor: float = 0.5
    plateau_patience: int = 25
    ema: float = 0.99
    energy_weight: float = 10.0
    forces_weight: float = 1.0
    stress_weight: float = 1.0
    precision: str = "float32"
    patience: int | None = None
    max_minutes: float | None = None
    checkpoint_minutes: float = 1.0
    row_groups: int = 4
    block_slots: int | None = None


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """A training run.

    Attributes:
        data: where frames come from.
        model: fields of :class:`~allegro_jax.config.AllegroConfig`. ``cutoff`` is needed; species,
            average neighbours, scales and shifts are found from the data unless given.
        training: how to train.
        seed: of the first weights, the split and the order of frames.
        output: folder of the results.
        resume: continue the run found in ``output``; otherwise it is overwritten.
    """

    data: DataConfig
    model: Mapping[str, Any]
    training: FitConfig = FitConfig()
    seed: int = 0
    output: Path = Path("runs/model")
    resume: bool = True

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data."""
        return _plain(dataclasses.asdict(self))


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainingConfig:
    """Read and check a YAML file. Paths in it are relative to its folder.

    Args:
        path: the file.
        overrides: ``"section.key=value"``, each replacing a value of the file (YAML syntax; paths
            relative to the file's folder as well).

    Raises:
        ConfigError: a misspelt or missing key, a missing file, an impossible value.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected the sections data, model and training")
    for override in overrides:
        _override(content, override)
    content.setdefault("output", f"runs/{path.stem}")
    try:
        return config_from_dict(content, path.parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def config_from_dict(content: Mapping[str, Any], folder: str | Path = ".") -> TrainingConfig:
    """A training run from plain data; paths are relative to ``folder``.

    Raises:
        ConfigError: as :func:`load_config`.
    """
    folder = Path(folder)
    _check_keys(content, _names(TrainingConfig), "")
    for needed in ("data", "model"):
        if needed not in content:
            raise ConfigError(f"the section {needed!r} is missing")
    for section in ("data", "model", "training"):
        if not isinstance(content.get(section, {}), Mapping):
            raise ConfigError(f"{section}: expected key: value pairs, got {content[section]!r}")
    model = _model(dict(content["model"]))
    return TrainingConfig(
        data=_data(dict(content["data"]), folder),
        model=model,
        training=_fit(dict(content.get("training", {}))),
        seed=_whole("seed", content.get("seed", 0), least=0),
        output=folder / _text("output", content.get("output", "runs/model")),
        resume=_boolean("resume", content.get("resume", True)),
    )


# -- sections --------------------------------------------------------------------------------------


def _data(section: dict[str, Any], folder: Path) -> DataConfig:
    _check_keys(section, _names(DataConfig), "data.")
    if not section.get("train"):
        raise ConfigError("data.train: missing; name the file with the training frames")
    section["train"] = _files("data.train", section["train"], folder)
    valid = section.get("valid", DataConfig.valid)
    if isinstance(valid, int | float) and not isinstance(valid, bool):
        if not 0 < valid < math.inf or (valid >= 1 and valid != int(valid)):
            raise ConfigError(
                f"data.valid: a share between 0 and 1, a number of frames, or files; got {valid}"
            )
        section["valid"] = float(valid)
    else:
        section["valid"] = _files("data.valid", valid, folder)
    section["test"] = _files("data.test", section.get("test") or [], folder)
    for name in ("energy_key", "forces_key", "stress_key"):
        if name in section:
            section[name] = _text(f"data.{name}", section[name])
    atoms = section.get("isolated_atoms")
    if isinstance(atoms, Mapping):
        section["isolated_atoms"] = {
            str(symbol): _number(f"data.isolated_atoms.{symbol}", value)
            for symbol, value in atoms.items()
        }
    elif atoms is not None:
        (section["isolated_atoms"],) = _files("data.isolated_atoms", [atoms], folder)
    if "reference_energies" in section:
        _choice("data.reference_energies", section["reference_energies"], REFERENCES)
    return DataConfig(**section)


def _model(section: dict[str, Any]) -> dict[str, Any]:
    _check_keys(section, _names(AllegroConfig), "model.")
    if "cutoff" not in section:
        raise ConfigError("model.cutoff: missing; give the cutoff radius in Å, for example 5.0")
    # species and what depends on them are only known with the data; check the rest now
    trial = {key: value for key, value in section.items() if not isinstance(value, Mapping)}
    if "species" not in section:
        for key in ("pair_cutoffs", "average_neighbours", "species_scales", "species_shifts"):
            if isinstance(trial.get(key), Sequence):
                raise ConfigError(
                    f"model.{key}: a list needs model.species for its order; name the species by a "
                    "mapping, or give model.species"
                )
        trial["species"] = ["H"]
    try:
        AllegroConfig.from_dict(trial)
    except ValueError as error:
        message = str(error)
        raise ConfigError(message if message.startswith("model") else f"model.{message}") from None
    return section


def _fit(section: dict[str, Any]) -> FitConfig:
    name = "training."
    _check_keys(section, _names(FitConfig), name)
    defaults = FitConfig()
    checked: dict[str, Any] = {}
    for key, value in section.items():
        where = name + key
        if value is None and getattr(defaults, key) is None:
            continue
        if key in (
            "epochs",
            "batch_size",
            "row_groups",
            "block_slots",
            "plateau_patience",
            "patience",
        ):
            checked[key] = _whole(where, value, least=1)
        elif key == "optimiser":
            checked[key] = _choice(where, value, OPTIMISERS)
        elif key == "schedule":
            checked[key] = _choice(where, value, SCHEDULES)
        elif key == "precision":
            checked[key] = _choice(where, value, PRECISIONS)
        elif key in ("learning_rate", "clip", "max_minutes"):
            checked[key] = _number(where, value, above=0.0)
        else:
            checked[key] = _number(where, value, least=0.0)
    fit = FitConfig(**checked)
    if not fit.ema < 1:
        raise ConfigError(f"{name}ema: a decay below 1, got {fit.ema}")
    if not 0 < fit.plateau_factor < 1:
        raise ConfigError(f"{name}plateau_factor: between 0 and 1, got {fit.plateau_factor}")
    if fit.final_learning_rate > 1:
        raise ConfigError(f"{name}final_learning_rate: a share of learning_rate, at most 1")
    if fit.schedule == "exponential" and not fit.final_learning_rate > 0:
        raise ConfigError(f"{name}final_learning_rate: above 0 for an exponential schedule")
    if fit.weight_decay and fit.optimiser != "adamw":
        raise ConfigError(f"{name}weight_decay: only adamw uses it; set training.optimiser: adamw")
    if not fit.energy_weight + fit.forces_weight + fit.stress_weight > 0:
        raise ConfigError(f"{name}forces_weight: all weights of the loss are 0")
    return fit


# -- values ----------------------------------------------------------------------------------------


def _names(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]


def _check_keys(section: Mapping[str, Any], known: Sequence[str], prefix: str) -> None:
    for key in section:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known are {', '.join(known)}"
            raise ConfigError(f"{prefix}{key}: no such key; {hint}")


def _override(content: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"{override!r}: expected key=value, for example training.epochs=10")
    *sections, last = key.split(".")
    for section in sections:
        if content.get(section) is None:
            content[section] = {}
        content = content[section]
        if not isinstance(content, dict):
            raise ConfigError(f"{key}: {section} holds no further keys")
    try:
        content[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"{key}: cannot read the value {value!r}") from None


def _files(name: str, value: Any, folder: Path) -> tuple[Path, ...]:
    values = [value] if isinstance(value, str | Path) else value
    if not isinstance(values, Sequence) or not all(isinstance(v, str | Path) for v in values):
        raise ConfigError(f"{name}: expected a file or a list of files, got {value!r}")
    paths = tuple(folder / Path(path).expanduser() for path in values)
    for path in paths:
        if not path.is_file():
            raise ConfigError(f"{name}: {path}: no such file")
    return paths


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str | Path) or not str(value):
        raise ConfigError(f"{name}: expected text, got {value!r}")
    return str(value)


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{name}: expected true or false, got {value!r}")
    return value


def _whole(name: str, value: Any, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name}: expected a whole number of at least {least}, got {value!r}")
    return value


def _number(name: str, value: Any, *, above: float = -math.inf, least: float = -math.inf) -> float:
    try:
        if isinstance(value, bool):
            raise TypeError
        number = float(value)  # YAML reads 1e-3 as text
    except (TypeError, ValueError):
        raise ConfigError(f"{name}: expected a number, got {value!r}") from None
    if not math.isfinite(number) or number <= above or number < least:
        bound = f" above {above:g}" if above > -math.inf else ""
        bound = bound or (f" of at least {least:g}" if least > -math.inf else "")
        raise ConfigError(f"{name}: expected a number{bound}, got {value!r}")
    return number


def _choice(name: str, value: Any, choices: Sequence[str]) -> str:
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{name}: {value!r} is not one of {', '.join(choices)}{hint}")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
