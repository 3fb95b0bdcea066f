"""A callback of Lightning that notes when epochs begin; ``nequip-train`` loads it by its name."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback


class EpochClock(Callback):
    """Writes the time (of ``time.time``) at which each epoch starts, and the end, a line each."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_epoch_start(self, *_: Any) -> None:
        self._note()

    def on_fit_end(self, *_: Any) -> None:
        self._note()

    def _note(self) -> None:
        with self.path.open("a") as file:
            file.write(f"{time.time()}\n")
