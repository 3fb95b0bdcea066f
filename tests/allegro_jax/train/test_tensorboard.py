"""What is written for TensorBoard, read back record by record."""

from __future__ import annotations

import struct
import sys

import pytest

from allegro_jax.settings import ConfigError
from allegro_jax.train.config import config_from_dict
from allegro_jax.train.tensorboard import Board


def row(epoch: int, train_loss: float) -> dict:
    return {
        "epoch": epoch,
        "train_loss": train_loss,
        "valid_forces_rmse": 0.1 / epoch,
        "valid_forces_count": 300,
        "learning_rate": 0.01,
        "seconds": 10.0 * epoch,
    }


def configuration(tmp_path, wanted: bool = True):
    (tmp_path / "frames.xyz").touch()
    content = {
        "data": {"train": "frames.xyz"},
        "model": {"cutoff": 4.5},
        "training": {"tensorboard": wanted},
        "output": "run",
    }
    return config_from_dict(content, tmp_path)


def events(folder):
    """The events of all files: length, checksum, protocol buffer, checksum, over and over."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.glob("events.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def test_curves(tmp_path):
    board = Board(configuration(tmp_path))
    board.start([])
    for epoch in (1, 2, 3):
        board.add(row(epoch, 1.0 / epoch))
    board.close()
    # continued from a checkpoint after the second epoch
    again = Board(configuration(tmp_path))
    again.start([row(1, 1.0), row(2, 0.5)])
    again.add(row(3, 0.25))
    again.close()

    found = events(tmp_path / "run/tensorboard")
    curves: dict[str, list] = {}
    for event in found:
        for value in event.summary.value:
            curves.setdefault(value.tag, []).append((event.step, value, event.wall_time))
    assert set(curves) == {
        "settings/text_summary",
        "loss/training",
        "forces_rmse/validation",
        "run/learning_rate",
        "run/seconds",
    }
    steps, values, times = zip(*curves["loss/training"], strict=True)
    assert steps == (1, 2, 3)
    assert [value.simple_value for value in values] == [1.0, 0.5, 0.25]
    assert times[2] - times[0] == pytest.approx(20.0, abs=1e-3)
    assert b"cutoff: 4.5" in curves["settings/text_summary"][0][1].tensor.string_val[0]


def test_only_if_asked_for_and_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    board = Board(configuration(tmp_path, wanted=False))
    board.start([row(1, 1.0)])
    board.add(row(2, 0.5))
    board.close()
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match=r"training\.tensorboard: needs tensorboardX"):
        Board(configuration(tmp_path))
