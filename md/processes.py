"""Several processes that make one run: joining, agreeing, and leaving together.

Every process reads what is given and takes every step; process 0, the leader, alone writes and
speaks.
What a process finds by itself (that time is over, a signal) the others are told; all else follows
from the same numbers on all of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Callable, Generator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

# A process that has not been heard of for so long is dead, and the others end.
HEARTBEAT_SECONDS = 60
# How long processes wait for the others to start.
JOIN_SECONDS = 300
# How long those that are done wait for the leader, who writes figures and evaluates test files.
FINISH_SECONDS = 24 * 3600
# So many steps may go by before all learn that one of them is to stop.
STEPS_BETWEEN_QUESTIONS = 16
# What launchers tell a process: how many there are, and which it is.
LAUNCHERS = (
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("PMI_SIZE", "PMI_RANK"),
    ("SLURM_NTASKS", "SLURM_PROCID"),
)
# In the messages of collectives that another process has left.
SIGNS_OF_LOSS = ("Gloo", "NCCL", "coordination service")


@dataclasses.dataclass(frozen=True)
class Launch:
    """How this process finds the others.

    Attributes:
        coordinator: host and port at which process 0 listens (``host:port``); ``None`` where the
            launcher tells (SLURM, Open MPI, TPUs).
        processes: how many there are, and
        process: which this is, from 0; ``None`` where the launcher tells.
    """

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None

    def completed(self, environment: Mapping[str, str]) -> Launch:
        """With what ``mpirun`` and ``srun`` say of processes in their environment.

        Raises:
            ValueError: one of the two numbers is unknown, or they are impossible.
        """
        if self.coordinator is None:
            if (self.processes, self.process) != (None, None):
                raise ValueError("--coordinator: needed with --processes and --process")
            return self
        if not self.coordinator.rpartition(":")[2].isdigit():
            raise ValueError(f"--coordinator: {self.coordinator!r} is not of the form host:port")
        number, place = self.processes, self.process
        for names in LAUNCHERS:
            if number is None and place is None and all(name in environment for name in names):
                number, place = (int(environment[name]) for name in names)
        if number is None or place is None:
            raise ValueError("--coordinator: give --processes and --process with it")
        if not 0 <= place < number:
            raise ValueError(f"--process: {place}, but {number} processes count from 0")
        return Launch(self.coordinator, number, place)


@contextlib.contextmanager
def joined(launch: Launch) -> Generator[None, None, None]:
    """Join the other processes of a run; to be entered before anything else uses JAX.

    An error inside ends this process at once, after its message, with exit code 2 (130 after an
    interruption): an orderly exit would wait for the others, who wait for this one. They then find
    the connection closed, or miss its heartbeats, and end as well.

    Raises:
        ValueError: the launcher says too little, or the others were not found.
    """
    launch = launch.completed(os.environ)
    try:
        jax.distributed.initialize(
            launch.coordinator,
            launch.processes,
            launch.process,
            initialization_timeout=JOIN_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=FINISH_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"the other processes were not found: {_one_line(error)}; give --coordinator "
            "host:port, --processes and --process"
        ) from None
    try:
        Team.of_all().wait()  # connections are made while all are waiting for them
        yield
    except BaseException as error:
        _leave(error)
    jax.distributed.shutdown()


@dataclasses.dataclass(frozen=True)
class Team:
    """The processes of a run.

    Attributes:
        number: how many; alone, nothing below does anything.
        index: which this is; 0 is the leader.
    """

    number: int = 1
    index: int = 0

    @classmethod
    def of_all(cls) -> Team:
        return cls(jax.process_count(), jax.process_index())

    @property
    def leads(self) -> bool:
        """Whether this process writes and speaks."""
        return self.index == 0

    @property
    def steps_between_questions(self) -> int:
        """How many steps go by until all are asked again whether to stop: asking takes time."""
        return 1 if self.number == 1 else STEPS_BETWEEN_QUESTIONS

    def any_of(self, *wishes: bool) -> tuple[bool, ...]:
        """Each wish if any process has it; all must ask, at the same point."""
        if self.number == 1:
            return wishes
        found = multihost_utils.process_allgather(np.asarray(wishes, np.int32))
        return tuple(found.any(axis=0).tolist())

    def wait(self) -> None:
        """Until all have come here."""
        self.any_of(True)

    @contextlib.contextmanager
    def leader_first(self) -> Generator[None, None, None]:
        """The leader goes through alone, then the others: they find the files that it has made."""
        if not self.leads:
            self.wait()
        yield
        if self.leads:
            self.wait()

    def has_lost_one(self, error: BaseException) -> bool:
        """Whether an error of JAX says that another process is gone."""
        return self.number > 1 and any(sign in str(error) for sign in SIGNS_OF_LOSS)

    def voice(self, say: Callable[[str], object]) -> Callable[[str], object]:
        """``say`` of the leader; the others say nothing."""
        return say if self.leads else lambda _: None

    def require_same(self, things: Mapping[str, Any]) -> None:
        """Check that every process has the same of what all must share.

        Args:
            things: JSON data by name; the same names everywhere.

        Raises:
            ValueError: (everywhere) some process has others.
        """
        if self.number == 1:
            return
        digests = [
            hashlib.sha256(json.dumps(thing, sort_keys=True).encode()).digest()
            for thing in things.values()
        ]
        mine = np.frombuffer(b"".join(digests), np.uint8).reshape(len(things), -1)
        others = multihost_utils.process_allgather(mine.astype(np.int32))
        different = (others != others[0]).any(axis=2)
        for process, row in enumerate(different):
            for name, differs in zip(things, row, strict=True):
                if differs:
                    raise ValueError(
                        f"process {process} differs from process 0 in {name}: all must be given "
                        "the same configuration, data and output folder"
                    )


def _leave(error: BaseException) -> None:
    """End this process now."""
    interrupted = isinstance(error, KeyboardInterrupt)
    message = "interrupted" if interrupted else _one_line(error)
    if Team.of_all().has_lost_one(error):
        message = f"another process has ended, see what it said ({message[:150]})"
    print(f"allegro-jax: process {jax.process_index()}: {message}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(130 if interrupted else 2)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
