"""When a run stops to write: the plan of each chunk, made on the host."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Strides of a run, in steps.

    A compiled chunk is a fixed grid of *frames* × *segments*. Each segment is a number of steps,
    known only when the chunk runs (possibly 0), after which observables are sampled; each row of
    segments ends with a frame. Any remainder therefore runs in the same compiled code.

    Attributes:
        log_every: steps between lines of the log.
        trajectory_every: steps between frames; 0 for no trajectory.
        chunk: largest number of steps that the host leaves compiled code alone.
        balance: steps between looks at the faces of domains, where a chunk ends too; 0 for none.
    """

    log_every: int
    trajectory_every: int
    chunk: int
    balance: int = 0

    def __post_init__(self) -> None:
        for name, value, least in (
            ("log_every", self.log_every, 1),
            ("trajectory_every", self.trajectory_every, 0),
            ("chunk_steps", self.chunk, 1),
            ("balance", self.balance, 0),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, not {value}")

    @property
    def frames(self) -> int:
        return max(1, self.chunk // self.trajectory_every) if self.trajectory_every else 1

    @property
    def segments(self) -> int:
        steps = min(self.trajectory_every or self.chunk, self.chunk)
        return max(1, -(-steps // self.log_every))

    def balances(self, step: int) -> bool:
        """Whether the faces of domains are looked at: also before the first step of all, −1."""
        return self.balance > 0 and (step < 0 or step % self.balance == 0)

    def plan(self, start: int, stop: int) -> Plan:
        """The chunk that leads from step ``start`` towards ``stop``."""
        counts = np.zeros((self.frames, self.segments), np.int32)
        logged, framed = [], []
        limit = min(start + self.chunk, stop)
        if self.balance:
            limit = min(limit, _next_multiple(start, self.balance))
        step = start
        for f in range(self.frames):
            for s in range(self.segments):
                end = min(_next_multiple(step, self.log_every), limit)
                if self.trajectory_every:
                    end = min(end, _next_multiple(step, self.trajectory_every))
                counts[f, s] = end - step
                if end > step and end % self.log_every == 0:
                    logged.append((f, s))
                step = end
                if self.trajectory_every and step % self.trajectory_every == 0:
                    break
            reached = counts[f].sum() > 0 and self.trajectory_every
            if reached and step % self.trajectory_every == 0:
                framed.append(f)
        return Plan(counts, logged, framed, step)

    def first(self) -> Plan:
        """The chunk of a single step of zero length that brings a fresh state to step 0."""
        counts = np.zeros((self.frames, self.segments), np.int32)
        counts[0, 0] = 1
        return Plan(counts, [(0, 0)], [0] if self.trajectory_every else [], 0)


class Plan(NamedTuple):
    """One chunk.

    Attributes:
        counts: [frames, segments] steps of each segment.
        logged: which samples are lines of the log.
        framed: which frames belong to the trajectory.
        end: the step at which the chunk ends.
    """

    counts: np.ndarray
    logged: list[tuple[int, int]]
    framed: list[int]
    end: int

    def until(self, step: int) -> Plan:
        """What of it is done when a run stops at a step."""
        steps = self.end - self.counts.sum() + np.cumsum(self.counts).reshape(self.counts.shape)
        logged = [place for place in self.logged if steps[place] <= step]
        framed = [f for f in self.framed if steps[f, -1] <= step]
        return Plan(self.counts, logged, framed, min(self.end, step))


def _next_multiple(step: int, stride: int) -> int:
    return (step // stride + 1) * stride
