"""Trains a tiny model as the tests of parallel training want it; run by them as a program.

Arguments: a YAML file, a file for the results, and key=value settings; one run for each value of
``--devices``. The number of devices that JAX sees is the caller's business (XLA_FLAGS).
"""

from __future__ import annotations

import argparse

import jax
import numpy as np

from allegro_jax.train.config import load_config
from allegro_jax.train.preparation import prepare
from allegro_jax.train.trainer import Trainer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("config")
    parser.add_argument("results")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--devices", nargs="+", default=["null"])
    options = parser.parse_args()
    found: dict[str, np.ndarray] = {}
    for devices in options.devices:
        overrides = [*options.overrides, f"training.devices={devices}"]
        config = load_config(options.config, overrides)
        with jax.enable_x64(config.training.precision == "float64"):
            trainer = Trainer(config, prepare(config, lambda _: None))
            run = trainer.start()
            for _ in range(config.training.epochs):
                run = trainer.epoch(run, lambda: None)
        found[f"{devices}/devices"] = np.asarray(trainer.devices.number)
        for place, leaf in enumerate(jax.tree.leaves(run.tree())):
            found[f"{devices}/weights/{place}"] = leaf
        for name, value in run.history[-1].items():
            if isinstance(value, float | int) and not name.endswith("seconds"):
                found[f"{devices}/history/{name}"] = np.asarray(value)
    np.savez(options.results, **found)


if __name__ == "__main__":
    main()
