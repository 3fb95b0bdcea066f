"""Processes that work without JAX: pieces of work go to them, and results come back, through pipes.

Unlike those of :mod:`multiprocessing` they never import the user's script again, which would start
it a second time where it is not guarded, and copy no memory of a process that runs JAX's threads.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

_START = "from allegro_jax.data.workers import serve; serve()"


class Workers:
    """A number of processes, as a context: they end with it."""

    def __init__(self, number: int) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        # each is one of many: libraries must not start threads for all cores
        environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-c", _START],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
            )
            for _ in range(number)
        ]
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        for process in self._processes:
            self._idle.put(process)

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """``function(item)`` for every item, in order; few items are taken ahead of the results.

        Args:
            function: can be pickled: of a module, or :func:`functools.partial` of one.
            items: can be pickled.

        Raises:
            Exception: what the function raises.
            RuntimeError: a process died.
        """
        waiting: deque[Future[Any]] = deque()
        with ThreadPoolExecutor(len(self._processes)) as threads:
            for item in items:
                waiting.append(threads.submit(self._call, function, item))
                if len(waiting) > 2 * len(self._processes):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _call(self, function: Callable[[Any], Any], item: Any) -> Any:
        process = self._idle.get()
        assert process.stdin is not None and process.stdout is not None
        try:
            pickle.dump((function, item), process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
            process.stdin.flush()
            fine, result = pickle.load(process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            raise RuntimeError(
                f"a process that prepares data died (exit status {process.poll()}); out of memory?"
            ) from error
        finally:
            self._idle.put(process)
        if not fine:
            raise result
        return result


def serve() -> None:
    """What a process does: work through what comes on standard input, until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not come between the results
    while True:
        try:
            function, item = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = (True, function(item))
        except Exception as error:
            answer = (False, error)
        pickle.dump(answer, results, protocol=pickle.HIGHEST_PROTOCOL)
        results.flush()
