"""Training: from a configuration to a model file."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from allegro_jax import model_file
from allegro_jax.data.batches import Batch, assemble, prefetch
from allegro_jax.data.dataset import DataSet
from allegro_jax.data.frames import read_frames
from allegro_jax.data.layout import Bucket, padding_waste, plan_buckets, shuffled_batches
from allegro_jax.model import count_parameters, init
from allegro_jax.potential import AllegroPotential
from allegro_jax.train import figures
from allegro_jax.train.checkpoint import Checkpoints
from allegro_jax.train.config import ConfigError, TrainingConfig
from allegro_jax.train.gradient import predict
from allegro_jax.train.loss import Loss, errors
from allegro_jax.train.optimiser import LearningRate, TrainState, initial_state, train_step
from allegro_jax.train.preparation import Preparation, prepare
from allegro_jax.train.progress import Progress, append_metrics, describe, write_metrics

# Steps handed to the device before the host waits for an earlier one.
STEPS_AHEAD = 8
# Keys that may differ between a run and its continuation.
FREE_KEYS = frozenset({"epochs", "max_minutes", "patience", "checkpoint_minutes"})


@dataclasses.dataclass(eq=False)
class Run:
    """The state of a run between two epochs.

    Attributes:
        state: weights, their average, optimiser.
        best: the averaged weights with the lowest validation loss.
        epoch: finished epochs.
        history: a row of metrics for each of them.
        rate: the learning-rate schedule.
    """

    state: TrainState
    best: Any
    epoch: int
    history: list[dict[str, Any]]
    rate: LearningRate

    @property
    def best_epoch(self) -> int:
        losses = [row["valid_loss"] for row in self.history]
        return int(np.nanargmin(losses)) + 1 if losses else 0

    def tree(self) -> dict[str, Any]:
        return {"state": self.state, "best": self.best}

    def record(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "history": self.history,
            "rate": {"factor": self.rate.factor, "waited": self.rate.waited},
        }


def train(
    config: TrainingConfig,
    *,
    stop_after: int | None = None,
    say: Callable[[str], object] = print,
) -> Path:
    """Train a model, or continue an interrupted run.

    Writes into ``config.output``: ``model.safetensors`` (the averaged weights with the lowest
    validation loss), ``metrics.csv``, ``learning_curve.png``, ``parity.png``, ``checkpoints/`` and,
    with test files, ``test.json``.

    Args:
        config: what to train.
        stop_after: end this call after so many finished epochs (in all), leaving a checkpoint that a
            later call continues exactly; for jobs in pieces.
        say: takes messages, a line each.

    Returns:
        The path of the model file.

    Raises:
        ConfigError: impossible settings, or ``output`` holds another run.
        DataError: data that cannot be used.
    """
    with jax.enable_x64(config.training.precision == "float64"):
        return _train(config, stop_after, say)


def _train(
    config: TrainingConfig, stop_after: int | None, say: Callable[[str], object]
) -> Path:
    fit, started = config.training, time.monotonic()
    checkpoints = Checkpoints(config.output / "checkpoints")
    preparation = prepare(config, say)
    trainer = Trainer(config, preparation, say)
    run = trainer.start()
    identity = _identity(config, preparation)
    if config.resume and checkpoints.exists("last"):
        run = _resume(run, checkpoints, identity)
        say(f"Continuing {config.output} after epoch {run.epoch}.")
    config.output.mkdir(parents=True, exist_ok=True)
    metrics = config.output / "metrics.csv"
    write_metrics(metrics, run.history)
    say(trainer.summary())

    def keep() -> None:
        checkpoints.save("best", {"params": run.best}, {"epoch": run.best_epoch})
        checkpoints.save("last", run.tree(), {**run.record(), "identity": identity})
        trainer.save_model(run)

    saved_at, saved_epoch = time.monotonic(), run.epoch
    progress = Progress(fit.epochs, run.epoch, trainer.steps_per_epoch)
    reason = f"All {fit.epochs} epochs are done."
    try:
        while run.epoch < fit.epochs:
            # only whole epochs enter `run`, so that it can be kept whenever this loop ends
            run = trainer.epoch(run, progress.step)
            append_metrics(metrics, run.history[-1])
            progress.epoch(run.history[-1], run.best_epoch)
            if not np.isfinite(run.history[-1]["train_loss"]):
                raise ValueError(
                    f"the loss is no longer finite in epoch {run.epoch}: lower training.learning_rate "
                    f"(now {fit.learning_rate:g}) or training.clip, or look for bad frames"
                )
            if time.monotonic() - saved_at >= 60 * fit.checkpoint_minutes:
                keep()
                saved_at, saved_epoch = time.monotonic(), run.epoch
            if stop_after is not None and run.epoch >= stop_after:
                reason = f"Stopped after epoch {run.epoch}, as asked."
                break
            if fit.patience and run.epoch - run.best_epoch >= fit.patience:
                reason = f"Early stop: no better validation for {fit.patience} epochs."
                break
            if fit.max_minutes and time.monotonic() - started >= 60 * fit.max_minutes:
                reason = f"Stopped: {fit.max_minutes:g} minutes are over."
                break
    except KeyboardInterrupt:
        progress.close()
        say(f"Interrupted; keeping epoch {run.epoch}. The same command continues the run.")
        if run.epoch > saved_epoch:
            keep()
        raise
    finally:
        progress.close()
    keep()
    say(f"{reason} {trainer.compilations()}")
    return trainer.finish(run)


class Trainer:
    """The compiled programs and the data of a run."""

    def __init__(
        self, config: TrainingConfig, preparation: Preparation, say: Callable[[str], object]
    ) -> None:
        fit = config.training
        self.config, self.preparation, self.say = config, preparation, say
        self.loss = Loss(
            fit.energy_weight, fit.forces_weight, fit.stress_weight, preparation.force_scale
        )
        self.train = _Part(preparation.train, preparation, config)
        self.valid = _Part(preparation.valid, preparation, config)
        self.dtype = jnp.dtype(fit.precision)
        params = init(jax.random.key(config.seed), preparation.model, self.dtype)
        self.potential = AllegroPotential(params, preparation.model)
        self.programs: dict[Any, Any] = {}
        self.compile_seconds = 0.0
        self.steps_per_epoch = len(self.train.batches(config.seed, 0))

    def start(self) -> Run:
        """A run before its first epoch."""
        state = initial_state(self.potential.params, self.config.training)
        best = jax.tree.map(np.asarray, state.average)
        return Run(state, best, 0, [], LearningRate(self.config.training))

    def epoch(self, run: Run, stepped: Callable[[], object]) -> Run:
        """Train for an epoch and validate; ``run`` stays as it was."""
        fit, started = self.config.training, time.monotonic()
        # a copy, for the step gives the memory of its argument to its result
        state = jax.tree.map(jnp.array, run.state)
        rate = dataclasses.replace(run.rate)
        sums: list[Any] = []
        pending: deque[Any] = deque()
        batches = self.train.batches(self.config.seed, run.epoch)
        learning_rate = 0.0
        with contextlib.closing(self.train.assembled(batches)) as assembled:
            for number, batch in enumerate(assembled, start=1):
                learning_rate = rate(run.epoch + number / len(batches))
                state, found = self._step(state, batch, np.asarray(learning_rate, self.dtype))
                sums.append(found)
                pending.append(found)
                if len(pending) > STEPS_AHEAD:
                    jax.block_until_ready(pending.popleft())
                stepped()
        train_errors = errors(jax.device_get(sums))
        valid_errors = self.validate(state.average)
        row: dict[str, Any] = {"epoch": run.epoch + 1, "learning_rate": learning_rate}
        for part, found in (("train", train_errors), ("valid", valid_errors)):
            row |= {f"{part}_{name}": value for name, value in found.items()}
            row[f"{part}_loss"] = self.loss.of_errors(found)
        before = min((old["valid_loss"] for old in run.history), default=np.inf)
        improved = row["valid_loss"] < before
        rate.validated(improved)
        row["seconds"] = time.monotonic() - started
        if run.history:
            row["seconds"] += run.history[-1]["seconds"]
        best = jax.tree.map(np.asarray, state.average) if improved else run.best
        state = jax.tree.map(np.asarray, state)
        return Run(state, best, run.epoch + 1, [*run.history, row], rate)

    def validate(self, params: Any) -> dict[str, float]:
        """Errors on the validation frames."""
        batches = self.valid.batches(self.config.seed, 0, shuffle=False)
        with contextlib.closing(self.valid.assembled(batches)) as assembled:
            return errors(jax.device_get([self._errors(params, batch) for batch in assembled]))

    def _step(self, state: TrainState, batch: Batch, rate: np.ndarray) -> tuple[TrainState, Any]:
        step = functools.partial(
            train_step, potential=self._bare, loss=self.loss, fit=self.config.training
        )
        return self._program("step", step, (0,), state, batch, rate)

    def _errors(self, params: Any, batch: Batch) -> Any:
        def evaluate(params: Any, batch: Batch) -> Any:
            return self.loss(predict(self._bare, params, batch), batch)[1]

        return self._program("errors", evaluate, (), params, batch)

    @functools.cached_property
    def _bare(self) -> AllegroPotential:
        # weights come as an argument of the compiled program; none must be captured as constants
        return self.potential.replace(params=None)

    def _program(
        self, name: str, function: Callable[..., Any], donated: tuple[int, ...], *arguments: Any
    ) -> Any:
        """Call a program compiled once per set of shapes, and keep account of compilations."""
        shapes = tuple(leaf.shape for leaf in jax.tree.leaves(arguments[1]))
        if (name, shapes) not in self.programs:
            started = time.monotonic()
            lowered = jax.jit(function, donate_argnums=donated).lower(*arguments)
            self.programs[name, shapes] = lowered.compile()
            self.compile_seconds += time.monotonic() - started
        return self.programs[name, shapes](*arguments)

    def summary(self) -> str:
        """What is about to be trained."""
        train, valid = self.preparation.train, self.preparation.valid
        first = self.train.batches(self.config.seed, 0)
        found = self.preparation.statistics
        return (
            f"{len(train)} training and {len(valid)} validation frames of "
            f"{', '.join(self.preparation.model.species)}; {found.average_neighbours:.1f} neighbours "
            f"per atom, force RMS {self.preparation.force_scale:.3g} eV/Å; "
            f"{count_parameters(self.potential.params)} weights; {len(first)} steps per epoch, "
            f"{100 * self.train.waste(first):.0f}% of the slots are padding."
        )

    def compilations(self) -> str:
        number = len(self.programs)
        return f"{number} compilations took {self.compile_seconds:.0f} s."

    def save_model(self, run: Run) -> Path:
        """Write the best weights of a run as a model file."""
        preparation, best = self.preparation, run.best_epoch
        metadata = {
            "training": {
                "config": self.config.to_dict(),
                "data": preparation.provenance,
                "epochs": run.epoch,
                "best_epoch": best,
                "validation": {
                    name.removeprefix("valid_"): value
                    for name, value in (run.history[best - 1] if best else {}).items()
                    if name.startswith("valid_")
                },
            },
            "shortest_distances": preparation.statistics.shortest_distances,
            "ranges": {
                "atoms_by_species": preparation.statistics.atoms_by_species,
                **preparation.statistics.ranges,
            },
        }
        potential = AllegroPotential(run.best, preparation.model)
        return model_file.save(
            self.config.output / "model.safetensors", model_file.Model(potential, metadata)
        )

    def finish(self, run: Run) -> Path:
        """Model file, figures and test errors."""
        from allegro_jax.evaluation import evaluate, predict_frames, write_report

        output, path = self.config.output, self.save_model(run)
        if not run.history:
            return path
        figures.learning_curve(run.history, output / "learning_curve.png")
        model = model_file.load(path)
        data = self.config.data
        tests = list(data.test)
        say, dtype = self.say, self.config.training.precision
        frames = read_frames(data.test, data.keys) if tests else self.preparation.valid_frames
        predicted = predict_frames(model, frames, dtype=dtype)
        figures.parity(frames, predicted, output / "parity.png", "test" if tests else "validation")
        say(f"Best epoch {run.best_epoch}: {describe(run.history[run.best_epoch - 1])}")
        if tests:
            report = evaluate(model, tests, keys=data.keys, dtype=dtype)
            write_report(output / "test.json", report)
            say(f"Test: {json.dumps({k: v for k, v in report.items() if k.endswith('rmse')})}")
        say(f"The model is {path}")
        return path


class _Part:
    """A data set with its layouts: training or validation."""

    def __init__(self, data: DataSet, preparation: Preparation, config: TrainingConfig) -> None:
        fit = config.training
        self.data, self.reference = data, preparation.reference(data)
        self.counts = np.split(data.neighbour_counts, data.atom_start[1:-1])
        self.buckets: list[Bucket] = plan_buckets(
            self.counts,
            fit.batch_size,
            groups=fit.row_groups,
            block_slots=fit.block_slots or default_block_slots(),
            seed=config.seed,
        )

    def batches(
        self, seed: int, epoch: int, *, shuffle: bool = True
    ) -> list[tuple[int, np.ndarray]]:
        return shuffled_batches(self.buckets, seed, epoch, shuffle=shuffle)

    def waste(self, batches: Sequence[tuple[int, np.ndarray]]) -> float:
        return padding_waste(self.buckets, self.counts, batches)

    def assembled(self, batches: Sequence[tuple[int, np.ndarray]]) -> Iterator[Batch]:
        """The batches as host arrays, prepared ahead by a thread."""

        def make(item: tuple[int, np.ndarray]) -> Batch:
            place, frames = item
            return assemble(self.data, frames, self.buckets[place].layout, self.reference).batch

        return prefetch(make, batches)


def default_block_slots() -> int:
    """Neighbour slots evaluated at once: what stays in a processor's cache, or fills a GPU."""
    return 512 if jax.default_backend() == "cpu" else 1 << 20


def _identity(config: TrainingConfig, preparation: Preparation) -> dict[str, Any]:
    """What must not change between a run and its continuation."""
    content = config.to_dict()
    data = {key: value for key, value in content["data"].items() if key != "test"}
    training = {key: value for key, value in content["training"].items() if key not in FREE_KEYS}
    identity = {
        "data": {key: value for key, value in data.items() if not isinstance(value, list)},
        "files": sorted(preparation.provenance["files"].values()),
        "model": preparation.model.to_dict(),
        "training": training,
        "seed": config.seed,
    }
    return json.loads(json.dumps(identity))


def _resume(run: Run, checkpoints: Checkpoints, identity: dict[str, Any]) -> Run:
    record = checkpoints.record("last")
    for section, value in identity.items():
        before = record["identity"].get(section)
        if before == value:
            continue
        changed = section
        if isinstance(value, dict) and isinstance(before, dict):
            keys = [key for key in value if before.get(key) != value[key]]
            changed = f"{section}.{keys[0]}" if keys else section
        raise ConfigError(
            f"output: {checkpoints.folder.parent} holds a run with another {changed}; choose another "
            "output, or set resume: false to overwrite it"
        )
    tree = checkpoints.restore("last", run.tree())
    rate = dataclasses.replace(run.rate, **record["rate"])
    return Run(tree["state"], tree["best"], record["epoch"], record["history"], rate)
