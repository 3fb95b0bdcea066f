"""What the benchmarks share: cores, turns, memory, utilisation, and what machine it is."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean, median

# What a machine needs to fall quiet after another contender's run (threads that still spin).
PAUSE = 0.1  # s
# Contenders that take longer than their time still have so many turns.
FEWEST = 3
# Where no contender's run takes longer than this, each turn has one more that does not count.
CHEAP = 1.0  # s


def pin(threads: int) -> None:
    """Keep this process, and those it starts, on as many cores. Call it before JAX starts."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < threads:
            sys.exit(f"{Path(sys.argv[0]).name}: --threads {threads}, but of {len(cores)} cores")
        os.sched_setaffinity(0, cores[:threads])


def in_turns(
    name: str,
    repeats: int,
    contenders: Mapping[str, Callable[[], float]],
    limit: float = float("inf"),
) -> dict[str, float]:
    """Median seconds of every contender; the first runs, which warm up, do not count.

    A step of training or of dynamics follows another one of its kind, and finds its data in cache;
    in a race it would follow another contender's. So where no run takes longer than
    :data:`CHEAP`, every turn of every contender begins with a run that does not count.

    Args:
        name: of the race, for the user.
        repeats: turns of each contender, after two to warm up.
        contenders: each runs once and returns its seconds.
        limit: no further turn after so many seconds, once each has had :data:`FEWEST`.
    """
    times: dict[str, list[float]] = {contender: [] for contender in contenders}
    started, slowest = time.monotonic(), 0.0
    for repeat in range(-2, repeats):
        if repeat >= FEWEST and time.monotonic() - started > limit:
            break
        say(f"{name}: {'warming up' if repeat < 0 else f'run {repeat + 1} of {repeats}'}")
        for contender, run in contenders.items():
            if repeat >= 0 and slowest <= CHEAP:
                run()
            seconds = run()
            time.sleep(PAUSE)
            if repeat >= 0:
                times[contender].append(seconds)
            elif repeat == -1:  # the first run of all may have compiled something
                slowest = max(slowest, seconds)
    return {contender: median(values) for contender, values in times.items()}


def peak_bytes(process: int | str = "self") -> int | None:
    """Peak resident memory of a running process so far; none where the system does not tell.

    From ``/proc``: the peak that ``getrusage`` tells of a child starts at that of its parent.
    """
    return _bytes(process, "VmHWM")


def resident_bytes(process: int | str = "self") -> int | None:
    """Memory that a running process has now; none where the system does not tell."""
    return _bytes(process, "VmRSS")


def _bytes(process: int | str, field: str) -> int | None:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return 1024 * int(found[0]) if found else None


class Utilisation:
    """The mean share of time that the GPU was busy in a ``with`` block, by ``nvidia-smi``.

    Attributes:
        available: whether there is ``nvidia-smi`` to ask.
        percent: the mean; none if it was not asked, or the block was too short.
    """

    QUERY = ("nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits")

    def __init__(self, every: float = 0.2) -> None:
        self.every = every
        self.available = shutil.which(self.QUERY[0]) is not None
        self.percent: float | None = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Utilisation:
        if self.available:
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        seen: list[float] = []
        while not self._over.wait(self.every):
            done = subprocess.run(self.QUERY, capture_output=True, text=True)
            if done.returncode == 0 and done.stdout.split():
                seen.append(float(done.stdout.split()[0]))
                self.percent = mean(seen)


def processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def say(message: str) -> None:
    print(f"  {message}", file=sys.stderr, flush=True)
