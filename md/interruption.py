"""How a run learns that it should stop: signals of the system, and time that runs out."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Turns SIGINT and SIGTERM into a question that the loop asks between chunks, as a context.

    The first signal asks the run to stop in order; a second one of the same kind does what it
    would have done without us. Outside the main thread signals cannot be caught: only the wall time
    counts there.

    Args:
        walltime_s: seconds after which the run should stop; None: no limit.

    Attributes:
        signal: the one that came, or None.
        stopping: whether it is time to stop.
    """

    def __init__(self, walltime_s: float | None) -> None:
        self._deadline = None if walltime_s is None else time.monotonic() + walltime_s
        self._previous: dict[int, Any] = {}
        self._longest = 0.0
        self._last = time.monotonic()
        self.signal: signal.Signals | None = None
        self.stopping = False

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        signal.signal(number, self._previous[number])

    def look(self) -> None:
        """See whether it is time to stop; asked once per chunk.

        The wall time counts as spent when another chunk, as long as the longest so far, would not
        fit into it.
        """
        now = time.monotonic()
        self._longest = max(self._longest, now - self._last)
        self._last = now
        late = self._deadline is not None and now + self._longest > self._deadline
        self.stopping = self.stopping or late or self.signal is not None
