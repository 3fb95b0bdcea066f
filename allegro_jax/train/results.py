"""What a finished run leaves: errors of its model, figures, and the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from allegro_jax import model_file
from allegro_jax.data.checks import Problem, summarise_skipped, write_problems
from allegro_jax.data.dataset import DataSet
from allegro_jax.data.frames import Frame
from allegro_jax.data.sources import read_frames
from allegro_jax.evaluation import predict_frames, report_errors, write_errors
from allegro_jax.train import figures
from allegro_jax.train.config import TrainingConfig
from allegro_jax.train.progress import closing_summary
from allegro_jax.train.report import write_report
from allegro_jax.train.report.record import Evaluated, record_run, save_record
from allegro_jax.train.trainer import Run, Trainer

# Validation frames that the finished model is evaluated on once more.
MOST_SHOWN = 5000


def finish(
    config: TrainingConfig,
    trainer: Trainer,
    run: Run,
    say: Callable[[str], object],
    *,
    outcome: str,
    first_epoch: int,
) -> Path:
    """Evaluate the model that the run has written; write test errors, figures and the report.

    Args:
        config: of the run.
        trainer: its data, and account of its time.
        run: its state.
        say: takes messages, a line each.
        outcome: why it ended.
        first_epoch: the first epoch of this session, from 1.

    Returns:
        The path of the model file.
    """
    output, preparation = config.output, trainer.preparation
    path = output / "model.safetensors"
    if not run.history:
        say(f"{outcome} The model is {path}")
        return path
    model = model_file.load(path)
    frames = {"validation": _some_frames(preparation.valid)}
    if config.data.test:
        frames["test"] = _test_frames(config, model.species, preparation.skipped, say)
    parts = _evaluate(model, frames, config.training.precision)
    shown, part = list(parts.items())[-1]
    figures.learning_curve(run.history, output / "learning_curve.png")
    figures.parity(part.frames, part.predictions, output / "parity.png", shown)
    if "test" in parts:
        errors = report_errors(parts["test"].frames, parts["test"].predictions)
        write_errors(output / "test.json", errors)
    record = record_run(
        config,
        preparation,
        model,
        parts,
        outcome=outcome,
        best_epoch=run.best_epoch,
        timing={**trainer.workload(), "first_epoch": first_epoch},
    )
    save_record(output, record)
    report = write_report(output)
    say(f"{outcome} {trainer.accounts(run)}")
    for line in closing_summary(record.errors, run.best_epoch, path, report):
        say(line)
    return path


def _evaluate(
    model: model_file.Model, frames: dict[str, list[Frame]], dtype: str
) -> dict[str, Evaluated]:
    """Predictions of all parts at once, which compiles less than one part after another."""
    every = [frame for own in frames.values() for frame in own]
    predictions = predict_frames(model, every, dtype=dtype)
    parts, start = {}, 0
    for part, own in frames.items():
        parts[part] = Evaluated(own, predictions[start : start + len(own)])
        start += len(own)
    return parts


def _some_frames(data: DataSet) -> list[Frame]:
    """The frames of a data set for a figure: all, or as many as can be told apart."""
    chosen = np.unique(np.linspace(0, len(data) - 1, MOST_SHOWN).astype(int))
    return [data.frame(int(number)) for number in chosen]


def _test_frames(
    config: TrainingConfig,
    species: Sequence[str],
    skipped_before: Sequence[Problem],
    say: Callable[[str], object],
) -> list[Frame]:
    """The frames of ``data.test``; those that were left out are told, and listed in a file."""
    data, skipped = config.data, list(skipped_before)
    frames = read_frames(data.test, data.conventions, species=species, report=data.report(skipped))
    if left_out := skipped[len(skipped_before) :]:
        say(summarise_skipped(left_out, "test"))
        write_problems(config.output / "skipped.csv", skipped)
    return frames
