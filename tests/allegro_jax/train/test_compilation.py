"""Compiled programs compute what their functions do, and leave no memory of the compiler behind."""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path

import jax.numpy as jnp
import pytest

from allegro_jax.train.compilation import compiled, give_back_free_memory


def test_programs_compute_and_donate():
    start, step = jnp.arange(3.0), jnp.full(3, 2.0)
    program = compiled(lambda x, dx: x + dx, start, step, donated=(0,))
    assert program(start, step).tolist() == [2, 3, 4]
    assert start.is_deleted() and not step.is_deleted()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps what is freed")
def test_freed_memory_is_given_back():
    def resident() -> int:
        return 4096 * int(Path("/proc/self/statm").read_text().split()[1])

    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    size, number = 50_000, 2_000  # each too small for a mapping of its own
    pieces = [libc.malloc(size) for _ in range(number)]
    for piece in pieces:
        ctypes.memset(piece, 1, size)
    for piece in pieces[:-1]:  # the last one keeps the heap from shrinking
        libc.free(piece)
    before = resident()
    give_back_free_memory()
    after = resident()
    libc.free(pieces[-1])
    assert before - after > 0.8 * size * number
