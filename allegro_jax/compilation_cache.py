"""Compiled programs kept between runs of the command line."""

from __future__ import annotations

import hashlib
import os
import platform
from importlib.metadata import version
from pathlib import Path

VARIABLE = "ALLEGRO_JAX_CACHE"


def cache_root() -> Path | None:
    """Where things are kept that can be made again: ``~/.cache/allegro-jax``.

    The environment variable ``ALLEGRO_JAX_CACHE`` names another place; empty, it switches the cache
    off.
    """
    chosen = os.environ.get(VARIABLE)
    if chosen == "":
        return None
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(chosen) if chosen else Path(base) / "allegro-jax"


def cache_folder() -> Path | None:
    """Where compiled programs are kept: ``~/.cache/allegro-jax/<processor>-jax<version>``.

    Code compiled for one processor can crash on another that shares the home folder, hence the
    processor in the name.
    """
    root = cache_root()
    return root / f"{_processor()}-jax{version('jaxlib')}" if root else None


def enable() -> None:
    """Let JAX read and write the cache. For programs, not libraries: it is a global setting."""
    folder = cache_folder()
    if folder is None:
        return
    # Reading a compiled program, XLA warns at length that the processor lacks "+prefer-no-gather"
    # and such: preferences of its own, not features. The folder is that of this processor. "1" is
    # nobody's choice: JAX sets it in a program that has started this one.
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import jax

    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _processor() -> str:
    """The kind of processor and its instruction set, as a short name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [platform.processor(), platform.platform()]
    fields = ("model name", "flags", "Features", "CPU part")
    identity = sorted({line for line in lines if line.startswith(fields)}) or lines
    return f"{platform.machine()}-{hashlib.sha256(''.join(identity).encode()).hexdigest()[:8]}"
