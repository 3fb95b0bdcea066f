"""Programs compiled for given arguments, without keeping the memory that compiling took."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any

import jax


def compiled(
    function: Callable[..., Any], *arguments: Any, donated: tuple[int, ...] = ()
) -> jax.stages.Compiled:
    """A function compiled for the shapes of its arguments.

    Args:
        function: pure.
        arguments: of the shapes and types that it will be called with.
        donated: which of them give their memory to the result.
    """
    program = jax.jit(function, donate_argnums=donated).lower(*arguments).compile()
    give_back_free_memory()
    return program


def give_back_free_memory() -> None:
    """Return to the system what the process has freed, where the C library can (glibc).

    To compile a step takes hundreds of megabytes in small pieces, which glibc would keep: more than
    everything else in the process, for small batches on a CPU.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(ctypes.c_size_t(0))
