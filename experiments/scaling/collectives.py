"""What a compiled program sends between devices, read from its optimised HLO text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import prod
from typing import NamedTuple

PERMUTE = "collective-permute"
KINDS = (PERMUTE, "all-reduce", "all-gather", "all-to-all", "reduce-scatter")

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
_BYTES |= {"s64": 8, "u64": 8, "f64": 8}
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (\(.*?\)|\S+) ([\w\-]+)\(")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
_CALLED = re.compile(
    r"(?:body|condition|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
    r"|branch_computations=\{([^}]*)\}"
)
_CALLS = ("while", "conditional", "call")  # nothing else can hold a collective


class Collective(NamedTuple):
    """One collective operation.

    Attributes:
        kind: one of :data:`KINDS`.
        size: bytes of its result on one device.
        depth: how many loops it is inside.
    """

    kind: str
    size: int
    depth: int


def collectives(text: str) -> list[Collective]:
    """All collective operations of a program for CPUs, where they are synchronous.

    Raises:
        ValueError: if there is an asynchronous one, whose result holds more than what was sent.
    """
    bodies, entry = _computations(text)
    found: list[Collective] = []

    def visit(name: str, depth: int) -> None:
        for shape, kind, called in bodies[name]:
            if kind.removesuffix("-start") in KINDS:
                if kind not in KINDS:
                    raise ValueError(f"{kind}: only synchronous collectives can be counted")
                found.append(Collective(kind, _size(shape), depth))
            elif kind in _CALLS:
                for inner in called:
                    visit(inner, depth + (kind == "while"))

    visit(entry, 0)
    return found


def _computations(text: str) -> tuple[dict[str, list[tuple[str, str, list[str]]]], str]:
    """Instructions of each computation: shape, operation, names of what it calls."""
    bodies: dict[str, list[tuple[str, str, list[str]]]] = {}
    entry = name = ""
    for line in text.splitlines():
        if header := _HEADER.match(line):
            name = header[2]
            bodies[name] = []
            entry = name if header[1] else entry
        elif instruction := _INSTRUCTION.match(line):
            bodies[name].append((instruction[1], instruction[2], list(_called(line))))
    return bodies, entry


def _called(line: str) -> Iterator[str]:
    for one, several in _CALLED.findall(line):
        yield from (name.strip().lstrip("%") for name in (one or several).split(","))


def _size(shape: str) -> int:
    return sum(
        _BYTES[kind] * prod(int(n) for n in dimensions.split(",") if n)
        for kind, dimensions in _ARRAY.findall(shape)
    )
