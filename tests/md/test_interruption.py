"""Signals and the wall time stop a run in order, and it goes on as if nothing had happened."""

from __future__ import annotations

import os
import signal
import threading

import pytest
from ase.build import bulk

from md import LennardJones, simulate
from md.interruption import Interruption


class Terminated(Exception):
    """What SIGTERM does in this test, where the default would end the test as well."""


@pytest.fixture
def terminated():
    def handler(number, frame):
        raise Terminated

    previous = signal.signal(signal.SIGTERM, handler)
    yield handler
    signal.signal(signal.SIGTERM, previous)


@pytest.fixture
def interruptible():
    """A shell starts jobs in the background with SIGINT ignored."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def run(folder, steps, **options):
    return simulate(
        LennardJones.create(("Ar",), 0.0104, 3.4, 5.0),
        bulk("Ar", "fcc", a=5.4) * (2, 2, 2),
        steps=steps,
        ensemble="langevin",
        temperature_K=40,
        timestep_fs=4.0,
        trajectory_every=0,
        chunk_steps=10,
        output=folder,
        progress=False,
        **options,
    )


def test_a_stopped_run_goes_on(tmp_path, terminated):
    endless = 10**7
    with pytest.raises(Terminated):
        threading.Timer(6.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
        run(tmp_path / "parts", endless)
    assert signal.getsignal(signal.SIGTERM) is terminated
    first = len((tmp_path / "parts" / "log.csv").read_text().splitlines()) - 1
    assert first >= 1

    late = run(tmp_path / "parts", endless, restart=True, walltime_s=2.0)
    assert not late.complete
    steps = int(late.state.step) + 10
    assert steps > 10 * first
    last = run(tmp_path / "parts", steps, restart=True)
    assert last.complete
    whole = run(tmp_path / "whole", steps)
    assert whole.complete
    for name in ("log.csv", "final.extxyz"):
        parts = (tmp_path / "parts" / name).read_bytes()
        assert parts == (tmp_path / "whole" / name).read_bytes(), name


def test_the_wall_time_leaves_room_for_the_longest_chunk(monkeypatch):
    clock = iter([0.0, 0.0, 4.0, 5.0, 6.0, 7.0])
    monkeypatch.setattr("md.interruption.time.monotonic", lambda: next(clock))
    interruption = Interruption(10.0)
    for stopping in (False, False, False, True):
        interruption.look()
        assert interruption.stopping is stopping


def test_a_second_signal_does_what_it_always_did(interruptible):
    with Interruption(None) as interruption:
        signal.raise_signal(signal.SIGINT)
        interruption.look()
        assert interruption.stopping and interruption.signal is signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
