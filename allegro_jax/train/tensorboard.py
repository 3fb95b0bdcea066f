"""The curves of a run for TensorBoard, one point per epoch, and its settings as text."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from allegro_jax.settings import ConfigError
from allegro_jax.train.config import TrainingConfig

FOLDER = "tensorboard"
PARTS = {"train": "training", "valid": "validation"}


class Board:
    """Writes ``tensorboard/`` in the folder of a run, if ``training.tensorboard`` asks for it.

    Use :meth:`start` with the epochs that are known, :meth:`add` for each that follows, and
    :meth:`close`.
    """

    def __init__(self, config: TrainingConfig) -> None:
        """Nothing is written yet.

        Raises:
            ConfigError: tensorboardX is not installed.
        """
        self._open: Any = None
        self._writer: Any = None
        self._origin = 0.0
        self._settings, self._folder = config.to_dict(), config.output / FOLDER
        if not config.training.tensorboard:
            return
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise ConfigError(
                "training.tensorboard: needs tensorboardX; "
                'pip install "allegro-jax[tensorboard]", or set it to false'
            ) from None
        self._open = SummaryWriter

    def start(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Write the curves anew up to here: so a continued run has every epoch once, and none that
        came after its checkpoint."""
        if self._open is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        for old in self._folder.glob("events.out.tfevents.*"):
            old.unlink()
        # relative times are those of training, without pauses
        self._origin = time.time() - (history[-1]["seconds"] if history else 0.0)
        self._writer = self._open(str(self._folder), flush_secs=10)
        settings = yaml.safe_dump(self._settings, sort_keys=False, allow_unicode=True)
        code = "".join(f"    {line}\n" for line in settings.splitlines())
        self._writer.add_text("settings", code, 0, walltime=self._origin)
        for row in history:
            self.add(row)

    def add(self, row: Mapping[str, Any]) -> None:
        """An epoch: a row of metrics."""
        if self._writer is None:
            return
        for name, value in row.items():
            if name == "epoch" or name.endswith("_count") or not isinstance(value, int | float):
                continue
            part, _, quantity = name.partition("_")
            tag = f"{quantity}/{PARTS[part]}" if part in PARTS else f"run/{name}"
            self._writer.add_scalar(
                tag, value, row["epoch"], walltime=self._origin + row["seconds"]
            )

    def close(self) -> None:
        """Everything is on disk afterwards."""
        if self._writer is not None:
            self._writer.close()
