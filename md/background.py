"""Work that is done in order by a thread of its own, while the run goes on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

_WAITING = 8  # tasks; when the disk cannot keep up, the run waits for it


class Background:
    """A thread that does tasks in order. After one has failed it does no more."""

    def __init__(self) -> None:
        self._tasks: queue.Queue[Callable[[], None] | None] = queue.Queue(_WAITING)
        self._error: BaseException | None = None
        # a daemon: a program that dies does not wait for it
        self._thread = threading.Thread(target=self._work, name="md output", daemon=True)
        self._thread.start()

    def submit(self, task: Callable[[], None]) -> None:
        """Have a task done; waits only if many are waiting already."""
        self._raise()
        self._tasks.put(task)

    def wait(self) -> None:
        """Until all tasks that there are now are done."""
        self._tasks.join()
        self._raise()

    def close(self) -> None:
        """Wait for all tasks."""
        self._tasks.put(None)
        self._thread.join()
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            if self._error is None:
                try:
                    task()
                except BaseException as error:
                    self._error = error
            self._tasks.task_done()
