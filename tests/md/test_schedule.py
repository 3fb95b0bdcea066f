"""Plans of chunks: every line and frame once, whatever the strides."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from md.schedule import Schedule


@given(
    log_every=st.integers(1, 40),
    trajectory_every=st.integers(0, 60),
    chunk=st.integers(1, 50),
    steps=st.integers(1, 200),
    start=st.integers(0, 30),
)
def test_every_event_once_and_in_order(log_every, trajectory_every, chunk, steps, start):
    schedule = Schedule(log_every, trajectory_every, chunk)
    step, lines, frames, stop = start, [], [], start + steps
    while step < stop:
        plan = schedule.plan(step, stop)
        assert plan.counts.shape == (schedule.frames, schedule.segments)
        assert step < plan.end <= stop and plan.counts.sum() == plan.end - step <= chunk
        after = step + np.cumsum(plan.counts).reshape(plan.counts.shape)
        lines += [int(after[at]) for at in plan.logged]
        frames += [int(after[f, -1]) for f in plan.framed]
        step = plan.end
    expected = [s for s in range(start + 1, stop + 1) if s % log_every == 0]
    assert lines == expected
    if trajectory_every:
        assert frames == [s for s in range(start + 1, stop + 1) if s % trajectory_every == 0]
    else:
        assert not frames
