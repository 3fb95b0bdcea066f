"""What a training run will take: time and memory of some settings, measured on a few steps."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from allegro_jax.benchmark import peak_memory
from allegro_jax.data.dataset import DataSet
from allegro_jax.train.config import TrainingConfig
from allegro_jax.train.parts import default_block_slots
from allegro_jax.train.preparation import Preparation, prepare
from allegro_jax.train.report.run_sections import duration
from allegro_jax.train.trainer import Run, Trainer

BATCH_SIZES = (1, 2, 5, 10)
ROW_GROUPS = (1, 2, 4, 8)
# Validation frames that are timed; the time of all follows from their number.
TIMED_VALIDATION = 64
# A step may take this share of the memory there is.
USABLE_MEMORY = 0.9
# A smaller batch is worth so much more time per epoch: it learns more in one.
SMALLER_BATCH = 1.1


@dataclasses.dataclass(frozen=True)
class Padding:
    """What a layout wastes: exact, for the first epoch.

    Attributes:
        batch_size, row_groups: settings.
        steps_per_epoch: how many steps the batches make.
        padding: share of the slots that hold no neighbour.
    """

    batch_size: int
    row_groups: int
    steps_per_epoch: int
    padding: float


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A setting, and what a run with it takes.

    Attributes:
        batch_size, row_groups, block_slots: settings.
        steps_per_epoch, padding: exact, as of :class:`Padding`.
        fits: whether the memory is there.
        memory: bytes of a step: what the compiled program says of itself, batch and weights
            included. 0 where it could not even be compiled.
        compile_seconds: of training and validation; less where programs were kept from before.
        step_seconds, frame_seconds: of a step, and of a frame of it; waiting for data included.
        validation_seconds: once per epoch.
        epoch_seconds, run_seconds: of an epoch with its validation, and of all epochs with
            compilation. These times are ``None`` where it does not fit.
    """

    batch_size: int
    row_groups: int
    block_slots: int
    steps_per_epoch: int
    padding: float
    fits: bool
    memory: int
    compile_seconds: float
    step_seconds: float | None = None
    frame_seconds: float | None = None
    validation_seconds: float | None = None
    epoch_seconds: float | None = None
    run_seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Tuning:
    """All estimates for a configuration.

    Attributes:
        device: what computed.
        epochs: of the run.
        data_bytes: of frames and neighbourhoods on the host (of the files, where they are mapped).
        memory_limit: bytes of the device; on a CPU of the machine. ``None`` if it does not tell.
        peak_memory: bytes, of the device; on a CPU of this process, everything included.
        paddings: of batch sizes and row groups.
        estimates: of batch sizes, and then of block slots.
        recommended: the one to take; ``None`` if none fits.
    """

    device: str
    epochs: int
    data_bytes: int
    memory_limit: int | None
    peak_memory: int
    paddings: tuple[Padding, ...]
    estimates: tuple[Estimate, ...]
    recommended: Estimate | None

    def __str__(self) -> str:
        return "\n".join((*_padding_table(self), "", *_estimate_table(self), "", *_advice(self)))


def tune(
    config: TrainingConfig,
    *,
    batch_sizes: Sequence[int] | None = None,
    block_slots: Sequence[int] | None = None,
    seconds: float = 2.0,
    say: Callable[[str], object] = print,
) -> Tuning:
    """Estimate time and memory of a run, by the programs that training itself uses.

    Batch sizes are compared first, with the configuration's other settings; then, with the best
    of them, the number of slots in a block. Nothing is written.

    Args:
        config: the run.
        batch_sizes: default 1, 2, 5, 10 and the configuration's own.
        block_slots: default a quarter of the configuration's, and four times as many.
        seconds: how long each setting is measured once it is compiled.
        say: takes messages, a line each.

    Raises:
        ConfigError, DataError: as in training.
    """
    with jax.enable_x64(config.training.precision == "float64"):
        return _tune(config, batch_sizes, block_slots, seconds, say)


def _tune(
    config: TrainingConfig,
    batch_sizes: Sequence[int] | None,
    block_slots: Sequence[int] | None,
    seconds: float,
    say: Callable[[str], object],
) -> Tuning:
    fit, preparation = config.training, prepare(config, say)
    trainer = Trainer(config, preparation)
    say(trainer.summary())
    data_bytes = _bytes(preparation.train) + _bytes(preparation.valid)
    limit = memory_limit()
    validation = len(preparation.valid)
    chosen = np.unique(np.linspace(0, validation - 1, TIMED_VALIDATION).astype(int))
    small = dataclasses.replace(
        preparation, params=trainer.params, valid=preparation.valid.select(chosen)
    )
    sizes = sorted({*batch_sizes} if batch_sizes else {*BATCH_SIZES, preparation.batch_size(fit)})
    least, most = (fit.devices or 1) * jax.process_count(), len(preparation.train)
    sizes = [size for size in sizes if least <= size <= most] or [max(least, most)]

    def usual_slots(batch_size: int) -> int:
        each = batch_size / trainer.devices.number
        return fit.block_slots or default_block_slots(preparation.train, each, fit.committee)

    def measured(batch_size: int, block: int) -> Estimate:
        say(f"Measuring batch_size {batch_size}, block_slots {block} ...")
        setting = _with(config, batch_size=batch_size, block_slots=block)
        return measure(
            setting,
            small,
            seconds=seconds,
            validation_frames=validation,
            memory=None if limit is None else USABLE_MEMORY * limit - _shared(data_bytes),
        )

    paddings = tuple(
        _padding(_with(config, batch_size=size, row_groups=groups), small)
        for size in sizes
        for groups in sorted({*ROW_GROUPS, fit.row_groups})
    )
    estimates = [measured(size, usual_slots(size)) for size in sizes]
    best = recommend(estimates)
    size = best.batch_size if best else sizes[0]
    slots = usual_slots(size)
    blocks = sorted({*block_slots} if block_slots else {max(slots // 4, 1), 4 * slots})
    estimates += [measured(size, block) for block in blocks if block != slots]
    return Tuning(
        device=jax.devices()[0].device_kind,
        epochs=fit.epochs,
        data_bytes=data_bytes,
        memory_limit=limit,
        peak_memory=peak_memory(),
        paddings=paddings,
        estimates=tuple(estimates),
        recommended=recommend(estimates),
    )


def measure(
    config: TrainingConfig,
    preparation: Preparation,
    *,
    seconds: float,
    validation_frames: int,
    memory: float | None,
) -> Estimate:
    """Compile a setting and time its steps.

    Args:
        config: the setting.
        preparation: its data; all of the training frames, and some for validation.
        seconds: how long to measure.
        validation_frames: how many there are in all.
        memory: bytes that a step may take; ``None`` for no limit.
    """
    fit, trainer = config.training, Trainer(config, preparation)
    known: dict[str, Any] = {
        "batch_size": preparation.batch_size(fit),
        "row_groups": fit.row_groups,
        "block_slots": fit.block_slots,
        "steps_per_epoch": trainer.steps_per_epoch,
        "padding": trainer.waste,
    }
    try:
        run, *_ = _steps(trainer, trainer.start(), _steps_to_compile(trainer))
        trainer.validate(run.state.average)
        compiled, used = trainer.compile_seconds, trainer.memory()
        if memory is not None and used > memory:
            return Estimate(**known, fits=False, memory=used, compile_seconds=compiled)
        started = time.perf_counter()
        trainer.validate(run.state.average)
        validation = time.perf_counter() - started
        steps, took, step = 0, 0.0, math.inf
        while steps < 3 or took < seconds:
            run, done, elapsed = _steps(trainer, run, max(2 * steps, 1))
            # the fastest: what starts and ends a piece is small in a whole epoch
            steps, took, step = steps + done, took + elapsed, min(step, elapsed / done)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        compiled, used = trainer.compile_seconds, trainer.memory()
        return Estimate(**known, fits=False, memory=used, compile_seconds=compiled)
    validation *= validation_frames / len(preparation.valid)
    epoch = trainer.steps_per_epoch * step + validation
    return Estimate(
        **known,
        fits=True,
        memory=used,
        compile_seconds=compiled,
        step_seconds=step,
        frame_seconds=trainer.steps_per_epoch * step / len(preparation.train),
        validation_seconds=validation,
        epoch_seconds=epoch,
        run_seconds=compiled + fit.epochs * epoch,
    )


def recommend(estimates: Sequence[Estimate]) -> Estimate | None:
    """The smallest batch among settings that fit and are within 10% of the fastest epoch."""
    fitting = [one for one in estimates if one.epoch_seconds is not None]
    if not fitting:
        return None
    fastest = min(_epoch(one) for one in fitting)
    good = [one for one in fitting if _epoch(one) <= SMALLER_BATCH * fastest]
    return min(good, key=lambda one: (one.batch_size, _epoch(one)))


def memory_limit() -> int | None:
    """Bytes of the device; on a CPU of the machine."""
    statistics = jax.devices()[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        return int(statistics["bytes_limit"])
    if jax.default_backend() == "cpu" and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _epoch(estimate: Estimate) -> float:
    return math.inf if estimate.epoch_seconds is None else estimate.epoch_seconds


def _steps(trainer: Trainer, run: Run, number: int) -> tuple[Run, int, float]:
    """At most ``number`` steps: how many, and their seconds without compilation.

    They end before the last step of the epoch, which would validate, and go on at its start. (Where
    the only step is the last, the time of the validation is that of the step, too.)
    """
    done = 0

    def stepped() -> None:
        nonlocal done
        done += 1

    before_last = trainer.steps_per_epoch - 1
    if run.step >= before_last:
        run = dataclasses.replace(run, step=0, sums=None)
    compiled, started = trainer.compile_seconds, time.perf_counter()
    last = min(number, before_last - run.step)
    run = trainer.epoch(run, stepped, lambda: done >= last)
    elapsed = time.perf_counter() - started - (trainer.compile_seconds - compiled)
    return run, done, elapsed


def _steps_to_compile(trainer: Trainer) -> int:
    """How many steps of the first epoch it takes to meet every layout (but for the last step's)."""
    several = trainer.config.training.accumulate
    layouts = [place for place, _ in trainer.train.batches(trainer.config.seed, 0)]
    last = max(layouts.index(place) for place in set(layouts))
    return last // several + 1


def _padding(config: TrainingConfig, preparation: Preparation) -> Padding:
    fit, trainer = config.training, Trainer(config, preparation)
    return Padding(
        preparation.batch_size(fit), fit.row_groups, trainer.steps_per_epoch, trainer.waste
    )


def _with(config: TrainingConfig, **settings: Any) -> TrainingConfig:
    return dataclasses.replace(config, training=dataclasses.replace(config.training, **settings))


def _bytes(data: DataSet) -> int:
    arrays = (getattr(data, field.name) for field in dataclasses.fields(data))
    return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))


def _shared(data_bytes: int) -> int:
    """Bytes of the data in the memory that steps use: all on a CPU, none on a device."""
    return data_bytes if jax.default_backend() == "cpu" else 0


# -- text ------------------------------------------------------------------------------------------


def _padding_table(tuning: Tuning) -> list[str]:
    groups = sorted({one.row_groups for one in tuning.paddings})
    head = "".join(f"{number:>8}" for number in groups)
    lines = [f"{'padding':>10} {'steps per':>10} {'with row_groups of':>20}"]
    lines.append(f"{'batch_size':>10} {'epoch':>10} {head}")
    for size in dict.fromkeys(one.batch_size for one in tuning.paddings):
        row = [one for one in tuning.paddings if one.batch_size == size]
        cells = "".join(f"{100 * one.padding:7.1f}%" for one in row)
        lines.append(f"{size:>10} {row[0].steps_per_epoch:>10} {cells}")
    return lines


def _estimate_table(tuning: Tuning) -> list[str]:
    head = ("batch_size", "block_slots", "padding", "ms/step", "ms/frame", "epoch")
    head += (f"{tuning.epochs} epochs", "compile", "memory")
    lines = ["".join(f"{title:>13}" for title in head)]
    for one in tuning.estimates:
        cells = [str(one.batch_size), str(one.block_slots), f"{100 * one.padding:.1f}%"]
        if one.fits:
            cells += [
                f"{1e3 * (one.step_seconds or 0):.4g}",
                f"{1e3 * (one.frame_seconds or 0):.4g}",
            ]
            cells += [duration(one.epoch_seconds or 0.0), duration(one.run_seconds or 0.0)]
        else:
            cells += ["does not fit", "", "", ""]
        cells += [duration(one.compile_seconds), f"{one.memory / 2**20:.4g} MB"]
        mark = "  <-" if one == tuning.recommended else ""
        lines.append("".join(f"{cell:>13}" for cell in cells) + mark)
    return lines


def _advice(tuning: Tuning) -> list[str]:
    limit = f" of {tuning.memory_limit / 2**30:.3g} GB" if tuning.memory_limit else ""
    lines = [
        f"On {tuning.device}. Frames and neighbourhoods: {tuning.data_bytes / 2**20:.4g} MB; peak "
        f"memory so far: {tuning.peak_memory / 2**20:.4g} MB{limit}.",
    ]
    best = tuning.recommended
    if best is None:
        return [*lines, "Nothing fits: lower training.block_slots, or make the model smaller."]
    return [
        *lines,
        "Recommended, the smallest batch whose epoch takes at most 10% longer than the fastest:",
        "",
        "training:",
        f"  batch_size: {best.batch_size}",
        f"  row_groups: {best.row_groups}",
        f"  block_slots: {best.block_slots}",
    ]
