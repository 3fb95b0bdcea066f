"""The compiled programs and the data of a run, an epoch at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from allegro_jax.data.batches import Batch, Waits
from allegro_jax.model import count_parameters
from allegro_jax.potential import AllegroPotential
from allegro_jax.settings import ConfigError, last_value
from allegro_jax.train import committee
from allegro_jax.train.accumulation import Accumulation, add_gradient, count_labels
from allegro_jax.train.breakdown import Breakdown
from allegro_jax.train.compilation import compiled
from allegro_jax.train.config import FitConfig, TrainingConfig
from allegro_jax.train.frozen import frozen_names
from allegro_jax.train.gradient import predict
from allegro_jax.train.loss import Loss
from allegro_jax.train.optimiser import (
    Total,
    TrainState,
    apply_gradient,
    initial_state,
    itself,
    train_step,
)
from allegro_jax.train.parallel import choose_devices
from allegro_jax.train.parts import Part
from allegro_jax.train.preparation import Preparation
from allegro_jax.train.schedule import Schedule, StepSettings

# Steps handed to the device before the host waits for an earlier one.
STEPS_AHEAD = 8


@dataclasses.dataclass(eq=False)
class Run:
    """The state of a run between two steps: all that is needed to continue it exactly.

    Attributes:
        state: weights, their average, optimiser; of a committee with a leading axis of members.
        best: the averaged weights with the lowest validation loss.
        epoch: finished epochs.
        history: a row of metrics for each of them.
        schedule: of the learning rate and the loss's weights.
        step: steps that are done of the next epoch.
        sums: for the errors over these steps, float64; ``None`` before the first.
        seconds, waiting_seconds: time spent so far, and how much of it waiting for batches.
    """

    state: TrainState
    best: Any
    epoch: int
    history: list[dict[str, Any]]
    schedule: Schedule
    step: int = 0
    sums: np.ndarray | None = None
    seconds: float = 0.0
    waiting_seconds: float = 0.0

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
            "schedule": {"factor": self.schedule.factor, "waited": self.schedule.waited},
            "step": self.step,
            "sums": None if self.sums is None else self.sums.tolist(),
            "seconds": self.seconds,
            "waiting_seconds": self.waiting_seconds,
        }

    def restored(self, tree: dict[str, Any], record: dict[str, Any]) -> Run:
        """The run of a checkpoint, from its :meth:`tree` and :meth:`record`."""
        return dataclasses.replace(
            self,
            **tree,
            epoch=record["epoch"],
            history=record["history"],
            schedule=dataclasses.replace(self.schedule, **record["schedule"]),
            step=record["step"],
            sums=None if record["sums"] is None else np.asarray(record["sums"]),
            seconds=record["seconds"],
            waiting_seconds=record["waiting_seconds"],
        )


class Trainer:
    """The compiled programs and the data of a run.

    The members of a committee are trained by the same program at once, on the same batches.
    """

    def __init__(self, config: TrainingConfig, preparation: Preparation) -> None:
        fit = config.training
        self.config, self.preparation = config, preparation
        self.loss = build_loss(fit, preparation)
        self.breakdown = Breakdown(preparation.model.species, preparation.valid.sources)
        self.members = fit.committee
        self.devices = devices = choose_devices(fit.devices, preparation.batch_size(fit))
        self.train = Part(preparation.train, preparation, config, devices, fit.row_groups)
        if fit.committee_bootstrap:
            self.train.weights = committee.bootstrap(
                config.seed, self.members, len(preparation.train)
            )
        # validation is a small part of the work: not worth compiling many groups for
        groups = min(2, fit.row_groups)
        self.valid = Part(preparation.valid, preparation, config, devices, groups)
        self.dtype = jnp.dtype(fit.precision)
        self.params, self.frozen = preparation.params, frozenset[str]()
        if self.params is None:
            self.params = committee.initial_params(
                config.seed, preparation.model, self.dtype, self.members
            )
        if config.fine_tune is not None:
            self.frozen = frozen_names(self.params, config.fine_tune.frozen)
        # weights come as an argument of the compiled program; none must be captured as constants
        self.potential = AllegroPotential(None, preparation.model)
        self.programs: dict[Any, Any] = {}
        self.compile_seconds = 0.0
        first = self.train.batches(config.seed, 0)
        self.steps_per_epoch = -(-len(first) // fit.accumulate)
        self.waste = self.train.waste(first)

    def start(self) -> Run:
        """A run before its first epoch."""
        initial = functools.partial(initial_state, fit=self.config.training)
        state = (initial if self.members == 1 else jax.vmap(initial))(self.params)
        best = jax.tree.map(np.asarray, state.average)
        return Run(state, best, 0, [], Schedule(self.config.training))

    def epoch(
        self,
        run: Run,
        stepped: Callable[[], object],
        pause: Callable[[], bool] = lambda: False,
    ) -> Run:
        """Train to the end of an epoch and validate; ``run`` stays as it was.

        Args:
            run: before the epoch, or within it.
            stepped: called after every step.
            pause: asked after every step; if it says so, the run is returned as it is then, within
                the epoch. Given to this method again, it ends exactly as if it had not been.
        """
        started = time.monotonic()
        # a copy, for the step gives the memory of its argument to its result
        state = self.devices.replicate(run.state)
        sums, step = run.sums, run.step
        pending: deque[Any] = deque()
        batches = self.train.batches(self.config.seed, run.epoch)
        several = self.config.training.accumulate
        steps = -(-len(batches) // several)
        settings = run.schedule(float(run.epoch))
        waits = Waits()
        with contextlib.closing(self.train.assembled(batches[run.step * several :])) as assembled:
            coming = waits.over(assembled)
            while group := list(itertools.islice(coming, several)):
                step += 1
                done = min(step * several, len(batches))
                settings = run.schedule(run.epoch + done / len(batches))
                state, found = self._step(state, group, settings)
                pending.append(found)
                if len(pending) > STEPS_AHEAD:
                    sums = _added(sums, pending.popleft())
                stepped()
                if step < steps and pause():
                    break
        for found in pending:
            sums = _added(sums, found)
        run = dataclasses.replace(
            run,
            state=jax.tree.map(np.asarray, state),
            step=step,
            sums=sums,
            seconds=run.seconds + time.monotonic() - started,
            waiting_seconds=run.waiting_seconds + waits.seconds,
        )
        return run if step < steps else self._finished(run, float(settings.learning_rate))

    def _finished(self, run: Run, learning_rate: float) -> Run:
        """The run after an epoch whose steps are all done: validated, with its row of metrics."""
        started = time.monotonic()
        row: dict[str, Any] = {"epoch": run.epoch + 1, "learning_rate": learning_rate}
        found = {"train": self._found([run.sums]), "valid": self.validate(run.state.average)}
        for part, errors in found.items():
            row |= {f"{part}_{name}": value for name, value in errors.items()}
        before = min((old["valid_loss"] for old in run.history), default=np.inf)
        improved = row["valid_loss"] < before
        schedule = dataclasses.replace(run.schedule)
        schedule.validated(improved)
        seconds = run.seconds + time.monotonic() - started
        row |= {"seconds": seconds, "waiting_seconds": run.waiting_seconds}
        return dataclasses.replace(
            run,
            best=run.state.average if improved else run.best,
            epoch=run.epoch + 1,
            history=[*run.history, row],
            schedule=schedule,
            step=0,
            sums=None,
            seconds=seconds,
        )

    def validate(self, params: Any) -> dict[str, Any]:
        """Loss and errors on the validation frames; of a committee the means over its members."""
        params = self.devices.replicate(params)
        batches = self.valid.batches(self.config.seed, 0, shuffle=False)
        with contextlib.closing(self.valid.assembled(batches)) as assembled:
            found = jax.device_get([self._errors(params, batch) for batch in assembled])
        groups = self.breakdown.errors(np.stack([groups for _, groups in found]))
        return self._found([sums for sums, _ in found]) | groups

    def _found(self, sums: Sequence[Any]) -> dict[str, float]:
        """Loss and mean errors from the sums of batches."""
        by_member = np.stack(jax.device_get(sums)).reshape(len(sums), self.members, -1)
        each = [self.loss.errors(by_member[:, member]) for member in range(self.members)]
        return committee.mean_and_spread(each)

    def _step(
        self, state: TrainState, group: Sequence[Batch], settings: StepSettings
    ) -> tuple[TrainState, list[Any]]:
        """A step on one batch, or on several whose gradients accumulate."""
        fit, work = self.config.training, {"potential": self.potential, "loss": self.loss}
        if fit.accumulate == 1:
            step = self._of_members(train_step, **work, fit=fit, frozen=self.frozen)
            state, found = self._program("step", step, (0,), state, group[0], settings)
            return state, [found]

        count = self._of_members(count_labels, loss=self.loss)
        members = () if self.members == 1 else (self.members,)
        labels = np.zeros((*members, *settings.weights.shape), self.dtype)
        for batch in group:
            labels = self._program("count", count, (), labels, batch)
        add = self._of_members(add_gradient, **work)
        gradient, sums = jax.tree.map(jnp.zeros_like, state.params), []
        for batch in group:
            accumulation = Accumulation(state.params, gradient, labels)
            gradient, found = self._program("add", add, (), accumulation, batch, settings)
            sums.append(found)
        apply = functools.partial(apply_gradient, fit=fit, frozen=self.frozen)
        if self.members > 1:
            apply = jax.vmap(apply, in_axes=(0, 0, None))
        return self._program("apply", apply, (0,), state, gradient, settings), sums

    def _of_members(self, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        """A function of (state, batch, ...) for all members and devices."""
        of_one = functools.partial(function, **options)
        return self.devices.spread(committee.over_members(of_one, self.members))

    def _errors(self, params: Any, batch: Batch) -> Any:
        def evaluate(params: Any, batch: Batch, total: Total = itself) -> Any:
            prediction = predict(self.potential, params, batch)
            return total((self.loss(prediction, batch)[1], self.breakdown(prediction, batch)))

        return self._program("errors", self._of_members(evaluate), (), params, batch)

    def _program(
        self, name: str, function: Callable[..., Any], donated: tuple[int, ...], *arguments: Any
    ) -> Any:
        """Call a program compiled once per set of shapes, and keep account of compilations."""
        shapes = tuple(leaf.shape for leaf in jax.tree.leaves(arguments[1]))
        if (name, shapes) not in self.programs:
            started = time.monotonic()
            self.programs[name, shapes] = compiled(function, *arguments, donated=donated)
            self.compile_seconds += time.monotonic() - started
        return self.programs[name, shapes](*arguments)

    def summary(self) -> str:
        """What is about to be trained."""
        train, valid = self.preparation.train, self.preparation.valid
        weights = f"{count_parameters(self.params) // self.members} weights"
        if self.members > 1:
            weights += f" in each of {self.members} members"
        found = self.preparation.statistics
        scale = f"{self.preparation.force_scale:.3g}"
        kind = (
            f"force RMS {scale} eV/Å" if found.force_rms else f"energies spread by {scale} eV/atom"
        )
        return (
            f"{len(train)} training and {len(valid)} validation frames of "
            f"{', '.join(self.preparation.model.species)}; {found.average_neighbours:.1f} "
            f"neighbours per atom, {kind}; "
            f"{weights}; {self.steps_per_epoch} steps per epoch (batches of "
            f"{self.preparation.batch_size(self.config.training)})"
            f"{self.devices.description()}, "
            f"{100 * self.waste:.0f}% of the slots are padding."
        )

    def memory(self) -> int:
        """Bytes that the largest of the compiled programs needs, its arguments included."""

        def needed(program: Any) -> int:
            found = program.memory_analysis()
            parts = ("argument", "output", "temp", "generated_code")
            sizes = [getattr(found, f"{part}_size_in_bytes") for part in parts]
            return sum(sizes) - found.alias_size_in_bytes

        return max((needed(program) for program in self.programs.values()), default=0)

    def workload(self) -> dict[str, Any]:
        """Size of an epoch, padding and compilations so far, for the report."""
        train = self.preparation.train
        return {
            "steps_per_epoch": self.steps_per_epoch,
            "frames": len(train),
            "atoms": int(train.atom_counts.sum()),
            "padding": self.waste,
            "compilations": len(self.programs),
            "compile_seconds": self.compile_seconds,
        }

    def accounts(self, run: Run) -> str:
        """Where time and memory went."""
        share = run.waiting_seconds / run.seconds if run.seconds else 0.0
        return (
            f"{len(self.programs)} compilations took {self.compile_seconds:.0f} s; "
            f"{100 * self.waste:.0f}% of the slots were padding; steps waited for data for "
            f"{run.waiting_seconds:.1f} s, {100 * share:.1f}% of the time."
        )


def build_loss(fit: FitConfig, preparation: Preparation) -> Loss:
    """The loss that settings ask for, with the weights that a run ends with.

    Raises:
        ConfigError: weights of species that the model does not have.
    """
    species, species_weights = preparation.model.species, None
    if fit.species_force_weights:
        given = dict(fit.species_force_weights)
        unknown = sorted(set(given) - set(species))
        if unknown:
            raise ConfigError(
                f"training.species_force_weights: {unknown[0]} is none of the species "
                f"{', '.join(species)}"
            )
        species_weights = tuple(given.get(symbol, 1.0) for symbol in species)
    return Loss(
        energy=last_value(fit.energy_weight, fit.epochs),
        forces=last_value(fit.forces_weight, fit.epochs),
        stress=last_value(fit.stress_weight, fit.epochs),
        force_scale=preparation.force_scale if fit.loss_units == "scaled" else 1.0,
        penalty=fit.loss,
        huber_delta=fit.huber_delta,
        total_energy=fit.energy_loss == "total",
        species_weights=species_weights,
    )


def _added(sums: np.ndarray | None, found: Sequence[Any]) -> np.ndarray:
    """Sums of one more step's batches, in float64; waits for the device."""
    for one in jax.device_get(found):
        more = np.asarray(one, np.float64)
        sums = more if sums is None else sums + more
    assert sums is not None
    return sums
