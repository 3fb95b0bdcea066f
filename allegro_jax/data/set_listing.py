"""What the command line tells of the named sets."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping

from allegro_jax.data.named_sets import NamedSet, Part, find, named_sets
from allegro_jax.data.transfer import describe_bytes

NO_LICENCE = "licence unknown"


def overview(sets: Mapping[str, NamedSet] | None = None) -> str:
    """A line for each set: name, parts, size, licence, DOI and title."""
    sets = named_sets() if sets is None else sets
    rows = [("set", "parts", "size", "licence", "cite (DOI)", "content")]
    for name, one in sets.items():
        licence = one.licence or NO_LICENCE
        rows.append((name, str(len(one.parts)), _size(one), licence, one.doi, one.title))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def description(name: str) -> str:
    """All that is known of a set.

    Raises:
        DataError: there is none of this name.
    """
    found = find(name)
    one = named_sets()[found.set] if isinstance(found, Part) else found
    lines = [f"{one.name}: {one.title}"]
    for label, text in (
        ("content", one.content),
        ("level", one.level),
        ("licence", one.licence or f"none could be read; see {one.page}"),
        ("cite", f"{one.citation}, https://doi.org/{one.doi}"),
        ("page", one.page),
        ("note", one.note),
        ("parts", ", ".join(one.parts)),
    ):
        if text:
            lines += _wrapped(f"{label:8} ", text)
    lines.append("files")
    for file, remote in one.files.items():
        size = "size unknown" if remote.size is None else f"{remote.size} bytes"
        lines.append(f"  {file}: {size}, {remote.checksum or 'no checksum known'}")
        lines += [f"    {address}" for address in remote.addresses or ("no address known",)]
    lines.append("addresses and checksums were read from")
    for text in dict.fromkeys(one.read_from.values()):
        lines += _wrapped("  ", text)
    return "\n".join(lines)


def acknowledgement(name: str) -> str:
    """The licence of a set, and what to cite when using it."""
    found = find(name)
    one = named_sets()[found.set] if isinstance(found, Part) else found
    return (
        f"Licence: {one.licence or f'none could be read, see {one.page}'}. "
        f"Please cite {one.citation}, https://doi.org/{one.doi}"
    )


def _size(one: NamedSet) -> str:
    size, complete = one.known_size
    if complete:
        return describe_bytes(size)
    return f"> {describe_bytes(size)}" if size else "unknown"


def _wrapped(label: str, text: str) -> Iterable[str]:
    return textwrap.wrap(
        text, 100, initial_indent=label, subsequent_indent=" " * len(label), break_long_words=False
    )
