"""What to train, on what, and how: one YAML file, checked when it is read.

The smallest useful file::

    data:
      train: frames.xyz
    model:
      cutoff: 5.0
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from allegro_jax.config import AllegroConfig
from allegro_jax.data.config import DataConfig
from allegro_jax.settings import (
    ConfigError,
    Ramp,
    boolean,
    check_keys,
    choice,
    files,
    last_value,
    names,
    number,
    numbers,
    plain,
    ramp,
    read_boolean,
    read_files,
    read_section,
    read_text,
    read_whole,
    setting,
    whole,
)

OPTIMISERS = ("adam", "adamw", "amsgrad", "muon", "schedule_free")
SCHEDULES = ("cosine", "exponential", "linear", "plateau", "constant")
LOSSES = ("mse", "mae", "huber")
ENERGY_LOSSES = ("per_atom", "total")
UNITS = ("scaled", "physical")
PRECISIONS = ("float32", "float64")
# Keys that serve some choices only: the key of the choice, and the choices.
SERVES = {
    "weight_decay": ("optimiser", ("adamw", "muon", "schedule_free")),
    "decay_share": ("schedule", ("linear",)),
    "plateau_factor": ("schedule", ("plateau",)),
    "plateau_patience": ("schedule", ("plateau",)),
    "huber_delta": ("loss", ("huber",)),
}


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """How to train (the section ``training``).

    Attributes:
        epochs: passes over the training frames.
        batch_size: frames per batch; ``null`` for as many as hold about 32 atoms.
        accumulate: batches per step; labels count alike in whichever of them they are. A last step
            of an epoch may have fewer.
        optimiser: ``adam``, ``adamw``, ``amsgrad``, ``muon`` or ``schedule_free`` (adamw that
            averages its weights instead of lowering the learning rate).
        learning_rate: the highest learning rate. Weights are of order one (their normalisation is
            applied at evaluation), hence the large value.
        weight_decay: of adamw, muon and schedule_free; matrices alone shrink.
        clip: largest norm of a gradient; longer ones are shortened. ``null`` for none.
        schedule: ``cosine``, ``exponential`` or ``linear`` to ``final_learning_rate`` (linear over
            the last ``decay_share`` of the epochs, constant before), ``plateau`` (times
            ``plateau_factor`` after ``plateau_patience`` epochs without a better validation), or
            ``constant``.
        warmup_epochs: the learning rate rises linearly over them.
        final_learning_rate: as a share of ``learning_rate``.
        ema: decay of the moving average of weights that is validated and kept; 0 for none.
        loss: the penalty of an error, ``mse``, ``mae`` or ``huber`` (see :class:`~.loss.Loss`).
        huber_delta: the error from which ``huber`` is linear, in units of the loss.
        loss_units: ``scaled`` by the RMS of the forces, or ``physical``: eV and eV/Å.
        energy_loss: of the energy ``per_atom`` or the ``total`` one.
        energy_weight, forces_weight, stress_weight: of the loss; or ``{epoch: weight, ...}``,
            joined by straight lines, where ``60%`` is a share of the epochs. The last weights are
            those that epochs are compared by.
        species_force_weights: of the forces on some species, by symbol; 1 on the others.
        committee: how many models to train at once, alike but for their first weights; the file
            then holds them all, and their spread is an uncertainty. 1 for a single model.
        committee_bootstrap: whether each member has its own frames as well: as many as there are,
            drawn with replacement.
        precision: ``float32`` or ``float64``.
        patience: stop after so many epochs without a better validation; ``null`` for never.
        max_minutes: stop after this time, at the end of an epoch; ``null`` for never.
        checkpoint_minutes: time between two checkpoints, also within an epoch (0: after every
            epoch). One is always written at the end, also of an interrupted run.
        tensorboard: whether to write curves for TensorBoard as well.
        devices: how many evaluate a batch (of each process); ``null`` for as many as JAX finds and
            have a frame to evaluate. The weights that come out differ by rounding alone.
        row_groups: most groups of rows that a batch is padded in; few frames get fewer.
        block_slots: neighbour slots evaluated at once; ``null`` chooses for the hardware and the
            batch.
    """

    epochs: int = whole(200, least=1)
    batch_size: int | None = whole(None, least=1)
    accumulate: int = whole(1, least=1)
    optimiser: str = choice("muon", OPTIMISERS)
    learning_rate: float = number(2e-2, above=0)
    weight_decay: float = number(0.0, least=0)
    clip: float | None = number(10.0, above=0, null=True)
    schedule: str = choice("cosine", SCHEDULES)
    warmup_epochs: float = number(1.0, least=0)
    final_learning_rate: float = number(1e-3, least=0, most=1)
    decay_share: float = number(1.0, above=0, most=1)
    plateau_factor: float = number(0.5, above=0, below=1)
    plateau_patience: int = whole(25, least=1)
    ema: float = number(0.999, least=0, below=1)
    loss: str = choice("mse", LOSSES)
    huber_delta: float = number(0.1, above=0)
    loss_units: str = choice("scaled", UNITS)
    energy_loss: str = choice("per_atom", ENERGY_LOSSES)
    energy_weight: Ramp = ramp(1.0, least=0)
    forces_weight: Ramp = ramp(1.0, least=0)
    stress_weight: Ramp = ramp(1.0, least=0)
    species_force_weights: Mapping[str, float] | None = numbers(None, least=0)
    committee: int = whole(1, least=1)
    committee_bootstrap: bool = boolean(False)
    precision: str = choice("float32", PRECISIONS)
    patience: int | None = whole(None, least=1)
    max_minutes: float | None = number(None, above=0)
    checkpoint_minutes: float = number(1.0, least=0)
    tensorboard: bool = boolean(False)
    devices: int | None = whole(None, least=1)
    row_groups: int = whole(4, least=1)
    block_slots: int | None = whole(None, least=1)

    def __post_init__(self) -> None:
        if self.schedule == "exponential" and not self.final_learning_rate > 0:
            raise ConfigError("training.final_learning_rate: above 0 for an exponential schedule")
        for key, (choice_key, choices) in SERVES.items():
            default = type(self).__dataclass_fields__[key].default
            if getattr(self, key) != default and getattr(self, choice_key) not in choices:
                raise ConfigError(
                    f"training.{key}: has no effect with {choice_key} "
                    f"{getattr(self, choice_key)}; it serves {', '.join(choices)}"
                )
        if self.optimiser == "schedule_free" and (self.schedule != "constant" or self.ema):
            raise ConfigError(
                "training.optimiser: schedule_free averages weights and keeps the learning rate; "
                "set training.schedule: constant and training.ema: 0"
            )
        weights = (self.energy_weight, self.forces_weight, self.stress_weight)
        if not any(last_value(weight, self.epochs) for weight in weights):
            raise ConfigError("training.forces_weight: all weights of the loss are 0")
        if self.committee_bootstrap and self.committee == 1:
            raise ConfigError("training.committee_bootstrap: needs training.committee of 2 or more")


def _read_model(name: str, value: Any, folder: Path) -> Path:
    (path,) = read_files(name, [value], folder)
    return path


def _read_patterns(name: str, value: Any, _: Path) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, Sequence) or not all(isinstance(one, str) and one for one in values):
        raise ConfigError(f"{name}: expected the name of weights or a list of names, got {value!r}")
    return tuple(values)


def _read_analogues(name: str, value: Any, _: Path) -> Mapping[str, str]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name}: expected NEW: KNOWN pairs of elements, got {value!r}")
    return {str(new): read_text(f"{name}.{new}", known) for new, known in value.items()}


@dataclasses.dataclass(frozen=True)
class FineTuneConfig:
    """What to start from instead of random weights (the section ``fine_tune``).

    Attributes:
        model: a model file, also one converted from nequip. Cutoff, architecture, scales and
            average neighbours are its.
        frozen: weights that stay as they are: ``two_body``, ``layers.0``, ``all but readout``.
        analogues: for new species the known ones whose weights they start from; otherwise those
            are random.
        shifts: ``keep`` the reference energies of known species, and find those of new ones; or
            ``fit`` them all to the energies of the new data.
        replay: files with old data, to be mixed into the new.
        replay_share: of the training frames that shall be old; ``null`` for all there are.
        replay_weight: what errors of old frames count in the loss; those of new ones count 1.
    """

    model: Path | None = setting(None, _read_model)
    frozen: tuple[str, ...] = setting((), _read_patterns)
    analogues: Mapping[str, str] | None = setting(None, _read_analogues)
    shifts: str = choice("keep", ("keep", "fit"))
    replay: tuple[Path, ...] = files()
    replay_share: float | None = number(None, above=0, below=1)
    replay_weight: float = number(1.0, above=0)

    def __post_init__(self) -> None:
        if self.model is None:
            raise ConfigError("fine_tune.model: missing; name the model file to start from")
        if (self.replay_share is not None or self.replay_weight != 1) and not self.replay:
            raise ConfigError("fine_tune.replay: missing; its share and weight need files")


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """A training run.

    Attributes:
        data: where frames come from.
        model: fields of :class:`~allegro_jax.config.AllegroConfig`. ``cutoff`` is needed; species,
            average neighbours, scales and shifts are found from the data unless given.
        training: how to train.
        fine_tune: the model to start from, whose configuration then takes the place of ``model``.
        seed: of the first weights, the split and the order of frames.
        output: folder of the results.
        resume: continue the run found in ``output``; otherwise it is overwritten.
    """

    data: DataConfig
    model: Mapping[str, Any]
    training: FitConfig = FitConfig()
    fine_tune: FineTuneConfig | None = None
    seed: int = 0
    output: Path = Path("runs/model")
    resume: bool = True

    def __post_init__(self) -> None:
        if self.fine_tune is not None and self.data.reference_energies != "auto":
            raise ConfigError(
                "data.reference_energies: say with fine_tune.shifts where they come from"
            )

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data."""
        return plain(dataclasses.asdict(self))


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
    check_keys(content, names(TrainingConfig), "")
    fine_tune = None
    if content.get("fine_tune") is not None:
        fine_tune = read_section(FineTuneConfig, content["fine_tune"], "fine_tune.", folder)
        content = {"model": {}, **content}
    for needed in ("data", "model"):
        if needed not in content:
            raise ConfigError(f"the section {needed!r} is missing")
    return TrainingConfig(
        data=read_section(DataConfig, content["data"], "data.", folder),
        model=_model(content["model"], complete=fine_tune is None),
        training=read_section(FitConfig, content.get("training", {}), "training.", folder),
        fine_tune=fine_tune,
        seed=read_whole("seed", content.get("seed", 0), least=0),
        output=folder / read_text("output", content.get("output", "runs/model")),
        resume=read_boolean("resume", content.get("resume", True)),
    )


def _model(section: Any, complete: bool) -> dict[str, Any]:
    if not isinstance(section, Mapping):
        raise ConfigError(f"model: expected key: value pairs, got {section!r}")
    check_keys(section, names(AllegroConfig), "model.")
    if not complete:  # a file has the rest
        return dict(section)
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
    return dict(section)


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
