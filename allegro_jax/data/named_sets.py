"""Published data sets by name: ``3bpa/train_300K`` is fetched, checked, and read as it must be.

The table is ``named_sets.yaml`` beside this file, which says where each address and each checksum
was read.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import importlib.resources
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from allegro_jax.data import archives, download
from allegro_jax.data.download import RemoteFile
from allegro_jax.data.frames import DataError

PREFIX = "set:"


@dataclasses.dataclass(frozen=True)
class Part:
    """Some frames of a set.

    Attributes:
        set, name: ``"3bpa"`` and ``"train_300K"``.
        file: the file that holds them.
        member: of an archive, the file in it; a pattern joins all that match it, in their order.
        frames: which frames of the file; ``None``: all.
        exclude: a file with the numbers of molecules to leave out.
        subset: what the name of a molecule's subset begins with (SPICE).
        conventions: how to read the file, :class:`~allegro_jax.data.conventions.Conventions`.
    """

    set: str
    name: str
    file: RemoteFile
    member: str | None = None
    frames: tuple[int, int] | None = None
    exclude: RemoteFile | None = None
    subset: str | None = None
    conventions: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.set}/{self.name}"


@dataclasses.dataclass(frozen=True)
class NamedSet:
    """A published data set.

    Attributes:
        name: how it is called here.
        title, content, level: what it is, what it holds, and the level of theory.
        licence: ``None`` where none could be read.
        citation, doi: of the paper to cite. page: for people.
        note: what a user should know.
        files: by name. read_from: where address and checksum of each file were read.
        parts: by name.
    """

    name: str
    title: str
    content: str
    level: str
    licence: str | None
    citation: str
    doi: str
    page: str
    note: str | None
    files: Mapping[str, RemoteFile]
    read_from: Mapping[str, str]
    parts: Mapping[str, Part]

    @property
    def known_size(self) -> tuple[int, bool]:
        """Bytes of the files whose size is known, and whether those are all."""
        sizes = [file.size for file in self.files.values()]
        return sum(size for size in sizes if size is not None), None not in sizes


@functools.cache
def named_sets() -> Mapping[str, NamedSet]:
    """All sets by name."""
    table = importlib.resources.files("allegro_jax.data") / "named_sets.yaml"
    return {
        name: _read_set(name, entry) for name, entry in yaml.safe_load(table.read_text()).items()
    }


def find(name: str | Path) -> NamedSet | Part:
    """What ``SET`` or ``SET/PART`` stands for, with or without ``set:`` before it.

    Raises:
        DataError: there is none, naming the nearest.
    """
    name = name.as_posix() if isinstance(name, Path) else name
    set_name, _, part_name = name.removeprefix(PREFIX).partition("/")
    found = named_sets().get(set_name)
    if found is None:
        raise DataError(f"{name}: no such set; {_nearest(set_name, named_sets())}")
    if not part_name:
        return found
    if part_name not in found.parts:
        raise DataError(
            f"{name}: the set {set_name} has no such part; {_nearest(part_name, found.parts)}"
        )
    return found.parts[part_name]


def find_parts(name: str | Path) -> list[Part]:
    """The part ``SET/PART``, or all parts of ``SET``.

    Raises:
        DataError: there is none.
    """
    found = find(name)
    return [found] if isinstance(found, Part) else list(found.parts.values())


def find_part(name: str | Path) -> Part:
    """What ``SET/PART`` stands for; the part may be left out where there is only one.

    Raises:
        DataError: there is none, or several.
    """
    found = find(name)
    if isinstance(found, Part):
        return found
    if len(found.parts) > 1:
        some = ", ".join(itertools.islice(found.parts, 4))
        raise DataError(f"{name}: which part of the set? It has {len(found.parts)}: {some}, ...")
    return next(iter(found.parts.values()))


def is_named(entry: str | Path) -> bool:
    """Whether an entry of ``data.train`` names a set rather than a file."""
    return str(entry).startswith(PREFIX)


def fetch(name: str | Path, folder: Path | None = None) -> list[Path]:
    """Download the files of a set or of a part, unless they are there.

    Args:
        name: ``SET`` or ``SET/PART``.
        folder: where to keep them; :func:`~allegro_jax.data.download.data_folder` by default.

    Returns:
        The files as they were published. Those of a part begin with the one that its frames are in.

    Raises:
        DataError: no such name, or a file that cannot be had (then the message says what to put
            where) or is not what it should be.
    """
    found = find(name)
    if isinstance(found, NamedSet):
        files = list(found.files.values())
    else:
        files = [found.file] + ([] if found.exclude is None else [found.exclude])
    return [download.fetch_file(file, folder) for file in files]


def resolve(name: str | Path, folder: Path | None = None) -> Path:
    """The file with the frames of a part, fetched, and taken out of its archive.

    Raises:
        DataError: as :func:`fetch`; or the archive lacks the file.
    """
    part = find_part(name)
    path = fetch(str(part), folder)[0]
    return path if part.member is None else archives.unpacked(path, part.member)


def fingerprint(name: str | Path, folder: Path | None = None) -> str:
    """SHA-256 of what makes the frames of a part: its files, and what is taken of them and how.

    Raises:
        DataError: as :func:`fetch`.
    """
    part = find_part(name)
    files = [download.recorded_sha256(path) for path in fetch(str(part), folder)]
    content = [files, part.member, part.frames, part.subset, dict(part.conventions)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# -- the table -------------------------------------------------------------------------------------


def _read_set(name: str, entry: Mapping[str, Any]) -> NamedSet:
    files: dict[str, RemoteFile] = {}
    read_from: dict[str, str] = {}
    groups = [group for one in entry["groups"] for group in _repeated(one)]
    for group in groups:
        for file, about in group.get("files", {}).items():
            files[file] = RemoteFile(
                name=f"{name}/{file}",
                addresses=tuple(about["addresses"]),
                size=about["size"],
                checksum=about["checksum"],
                page=entry["page"],
            )
            read_from[file] = about["read_from"]
    parts: dict[str, Part] = {}
    for group in groups:
        for part, about in group.get("parts", {}).items():
            start, _, stop = about.get("frames", "").partition(":")
            parts[part] = Part(
                set=name,
                name=part,
                file=files[about["file"]],
                member=about.get("member"),
                frames=(int(start), int(stop)) if stop else None,
                exclude=files[about["exclude"]] if "exclude" in about else None,
                subset=about.get("subset"),
                conventions=entry.get("conventions", {}) | about.get("conventions", {}),
            )
    texts = ("title", "content", "level", "licence", "citation", "doi", "page")
    return NamedSet(
        name=name,
        **{text: entry[text] for text in texts},
        note=entry.get("note"),
        files=files,
        read_from=read_from,
        parts=parts,
    )


def _repeated(group: Mapping[str, Any]) -> Iterator[Any]:
    """A group for each combination of the values of ``for``, which replace ``{name}`` in texts."""
    names = group.get("for", {})
    for values in itertools.product(*names.values()):
        yield _fill(group, dict(zip(names, values, strict=True)))


def _fill(item: Any, values: Mapping[str, str]) -> Any:
    if isinstance(item, Mapping):
        return {_fill(key, values): _fill(value, values) for key, value in item.items()}
    if isinstance(item, list):
        return [_fill(value, values) for value in item]
    return item.format_map(values) if isinstance(item, str) else item


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
