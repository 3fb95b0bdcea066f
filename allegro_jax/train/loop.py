"""Training: from a configuration to a model file."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from allegro_jax import model_file
from allegro_jax.data.checks import write_problems
from allegro_jax.potential import potential_of
from allegro_jax.settings import ConfigError
from allegro_jax.train.checkpoint import Checkpoints
from allegro_jax.train.config import TrainingConfig
from allegro_jax.train.preparation import Preparation, prepare
from allegro_jax.train.progress import (
    Progress,
    append_metrics,
    write_metrics,
)
from allegro_jax.train.results import finish
from allegro_jax.train.tensorboard import Board
from allegro_jax.train.trainer import Run, Trainer
from md.interruption import Interruption
from md.processes import Team

# Keys that may differ between a run and its continuation.
FREE_KEYS = frozenset(
    {"epochs", "max_minutes", "patience", "checkpoint_minutes", "tensorboard", "devices"}
)
MODEL_FILE = "model.safetensors"


def train(
    config: TrainingConfig,
    *,
    stop_after: int | None = None,
    say: Callable[[str], object] = print,
) -> Path:
    """Train a model, or continue an interrupted run.

    Writes into ``config.output``: ``model.safetensors`` (the averaged weights with the lowest
    validation loss), ``metrics.csv``, ``report.html`` (with ``report.json``, what it is made of),
    ``learning_curve.png``, ``parity.png``, ``checkpoints/``, with test files
    ``test.json``, and if asked for ``tensorboard/``.

    Args:
        config: what to train.
        stop_after: end this call after so many finished epochs (in all), leaving a checkpoint that
            a later call continues exactly; for jobs in pieces.
        say: takes messages, a line each.

    Returns:
        The path of the model file.

    Raises:
        ConfigError: impossible settings, or ``output`` holds another run.
        DataError: data that cannot be used.
    """
    with jax.enable_x64(config.training.precision == "float64"):
        return _train(config, stop_after, say)


def _train(config: TrainingConfig, stop_after: int | None, say: Callable[[str], object]) -> Path:
    fit, started = config.training, time.monotonic()
    team = Team.of_all()
    say = team.voice(say)
    checkpoints, board = Checkpoints(config.output / "checkpoints"), Board(config)
    with team.leader_first():  # the others find what it has kept for later runs
        preparation = prepare(config, say)
    trainer = Trainer(config, preparation)
    run = trainer.start()
    identity = _identity(config, preparation)
    if config.resume and checkpoints.exists("last"):
        run = _resume(run, checkpoints, identity)
        say(f"Continuing {config.output} after {_place(run, trainer.steps_per_epoch)}.")
    settings = {f"training.{key}": value for key, value in config.to_dict()["training"].items()}
    team.require_same(
        {**settings, **identity, "stop_after": stop_after, "checkpoint": run.record()}
    )
    metrics = config.output / "metrics.csv"
    if team.leads:
        config.output.mkdir(parents=True, exist_ok=True)
        write_metrics(metrics, run.history)
        board.start(run.history)
        if preparation.skipped:
            write_problems(config.output / "skipped.csv", preparation.skipped)
    say(trainer.summary())
    first_epoch = run.epoch + 1

    saved_at = time.monotonic()

    def keep() -> None:
        nonlocal saved_at
        if team.leads:
            if run.history:
                checkpoints.save("best", {"params": run.best}, {"epoch": run.best_epoch})
                save_model(config, preparation, run)
            checkpoints.save("last", run.tree(), {**run.record(), "identity": identity})
        saved_at = time.monotonic()

    stream = None if team.leads else io.StringIO()  # nobody reads the others' progress
    progress = Progress(fit.epochs, run.epoch, trainer.steps_per_epoch, stream, step=run.step)
    reason = f"All {fit.epochs} epochs are done."
    stopping = keeping = False
    with (
        contextlib.closing(progress),
        contextlib.closing(board),
        Interruption(None) as interruption,
    ):

        def look() -> None:
            nonlocal stopping, keeping
            interruption.look()
            due = time.monotonic() - saved_at >= 60 * fit.checkpoint_minutes
            stopping, keeping = team.any_of(interruption.stopping, due)

        def pause() -> bool:
            if next(pauses) % team.steps_between_questions:
                return False
            look()
            return stopping or (keeping and fit.checkpoint_minutes > 0)

        pauses = itertools.count(1)
        while run.epoch < fit.epochs:
            # `run` is a state between two steps at all times: it can be kept whenever this ends
            try:
                run = trainer.epoch(run, progress.step, pause)
            except Exception as error:
                if team.has_lost_one(error):
                    keep()
                raise
            if not run.step:
                if team.leads:
                    append_metrics(metrics, run.history[-1])
                    board.add(run.history[-1])
                progress.epoch(run.history[-1], run.best_epoch)
                if not np.isfinite(run.history[-1]["train_loss"]):
                    raise ValueError(
                        f"the loss is no longer finite in epoch {run.epoch}: lower "
                        f"training.learning_rate (now {fit.learning_rate:g}), or look for bad "
                        "frames"
                    )
                look()
            if stopping or keeping:
                keep()
            if stopping:
                break
            if run.step:
                continue
            if stop_after is not None and run.epoch >= stop_after:
                reason = f"Stopped after epoch {run.epoch}, as asked."
                break
            if fit.patience and run.epoch - run.best_epoch >= fit.patience:
                reason = f"Early stop: no better validation for {fit.patience} epochs."
                break
            late = time.monotonic() - started >= 60 * (fit.max_minutes or math.inf)
            if fit.max_minutes and team.any_of(late) == (True,):
                reason = f"Stopped: {fit.max_minutes:g} minutes are over."
                break
    if stopping or interruption.signal is not None:
        say(
            f"Interrupted after {_place(run, trainer.steps_per_epoch)}, which is kept. The same "
            "command continues the run."
        )
        signal.raise_signal(interruption.signal or signal.SIGINT)
    keep()
    if not team.leads:
        return config.output / MODEL_FILE
    return finish(config, trainer, run, say, outcome=reason, first_epoch=first_epoch)


def _place(run: Run, steps: int) -> str:
    within = f" and {run.step} of {steps} steps" if run.step else ""
    return f"epoch {run.epoch}{within}"


def save_model(config: TrainingConfig, preparation: Preparation, run: Run) -> Path:
    """Write the best weights of a run as a model file."""
    best = run.history[run.best_epoch - 1] if run.history else {}
    metadata = {
        "training": {
            "config": config.to_dict(),
            "data": preparation.provenance,
            "epochs": run.epoch,
            "best_epoch": run.best_epoch,
            "validation": {
                name.removeprefix("valid_"): value
                for name, value in best.items()
                if name.startswith("valid_")
            },
        },
        "shortest_distances": preparation.statistics.shortest_distances,
        "ranges": {
            "atoms_by_species": preparation.statistics.atoms_by_species,
            **preparation.statistics.ranges,
        },
    }
    potential = potential_of(run.best, preparation.model, config.training.committee)
    return model_file.save(config.output / MODEL_FILE, model_file.Model(potential, metadata))


def _identity(config: TrainingConfig, preparation: Preparation) -> dict[str, Any]:
    """What must not change between a run and its continuation."""
    content = config.to_dict()
    data = {key: value for key, value in content["data"].items() if key not in ("test", "cache")}
    training = {key: value for key, value in content["training"].items() if key not in FREE_KEYS}
    tune = content["fine_tune"]
    if tune is not None:  # its files may be moved: their checksums count
        tune = {key: value for key, value in tune.items() if key not in ("model", "replay")}
    if isinstance(config.data.isolated_atoms, Path):  # a file, like those in lists
        del data["isolated_atoms"]
    identity = {
        "data": {key: value for key, value in data.items() if not isinstance(value, list)},
        "files": sorted(preparation.provenance["files"].values()),
        "model": preparation.model.to_dict(),
        "fine_tune": tune,
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
            if not keys:  # only that an earlier version kept more
                continue
            changed = f"{section}.{keys[0]}"
        raise ConfigError(
            f"output: {checkpoints.folder.parent} holds a run with another {changed}; choose "
            "another output, or set resume: false to overwrite it"
        )
    return run.restored(checkpoints.restore("last", run.tree()), record)
