"""Which format a file has, and which files a user means by a path."""

from __future__ import annotations

import functools
import glob
from collections.abc import Callable, Iterator
from pathlib import Path

import ase.io.formats

from allegro_jax.data import named_sets
from allegro_jax.data.conventions import Record
from allegro_jax.data.frames import DataError
from allegro_jax.data.sources import (
    ase_files,
    cp2k,
    databases,
    deepmd,
    hdf5,
    mlearn,
    named,
    npz,
    qm9,
)

Reader = Callable[[Path], Iterator[Record]]

READERS: dict[str, Reader] = {
    "extxyz": ase_files.read_extxyz,
    "npz": npz.read,
    "hdf5": hdf5.read,
    "deepmd": deepmd.read,
    "qm9": qm9.read,
    "mlearn": mlearn.read,
    "db": databases.read,
    "aselmdb": databases.read_lmdb,
    "cp2k-trajectory": cp2k.read_trajectory,
    "cp2k-output": cp2k.read_output,
}
"""Formats that are read here; every other name is one of ASE's."""

_SUFFIXES = {
    ".npz": "npz",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".db": "db",
    ".aselmdb": "aselmdb",
    ".lmdb": "aselmdb",
    ".xyz": "extxyz",
    ".extxyz": "extxyz",
    ".traj": "traj",
}
_ARCHIVES = (".tar", ".tar.bz2", ".tar.gz", ".tar.xz")
_COMPRESSED = (".gz", ".bz2", ".xz")
# Of ASE's formats those whose files hold energies: what a folder is searched for.
_LABELLED = (
    *("vasp-xml", "vasp-out", "aims-output", "espresso-out", "gaussian-out", "orca-output"),
    *("nwchem-out", "castep-castep", "castep-md", "castep-geom", "abinit-out", "abinit-gsr"),
    *("gpaw-out", "gamess-us-out", "onetep-out", "qbox", "acemolecule-out", "json", "traj"),
)


def find_format(path: Path) -> str | None:
    """The format of a file or folder by its name and its first bytes; ``None``: none is known."""
    if path.is_dir():
        return "deepmd" if deepmd.is_system(path) else None
    name = path.name
    if name.endswith(_ARCHIVES):
        return "qm9"
    if path.suffix in _COMPRESSED:
        name = name.removesuffix(path.suffix)
    suffix = Path(name).suffix
    if suffix == ".xyz" and path.suffix == ".xyz":
        if cp2k.is_trajectory(path):
            return "cp2k-trajectory"
        if qm9.is_molecule(_head(path)):
            return "qm9"
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    if cp2k.is_output(_head(path)):
        return "cp2k-output"
    try:
        found = ase.io.formats.filetype(str(path))
    except Exception:  # ASE's sniffing raises what it likes
        return None
    return found if found in ase.io.formats.ioformats else None  # it may be the bare suffix


def reader(path: Path, name: str | None) -> Reader:
    """What reads a file.

    Args:
        path: the file, the folder of a DeePMD system, or the name of a set, ``set:SET/PART``.
        name: its format; ``None``: to be found.

    Raises:
        DataError: a format that is not known.
    """
    if named_sets.is_named(path):
        return functools.partial(named.read, reader=_inner_reader(path, name))
    name = name or find_format(path)
    if name is None:
        raise DataError("of no known format; name it with data.format")
    if name in READERS:
        return READERS[name]
    if name not in ase.io.formats.ioformats:
        raise DataError(f"no format {name!r}; there are {', '.join(READERS)}, and those of ASE")
    if name == "json":
        return databases.read
    return functools.partial(ase_files.read_ase, name=name)


def _inner_reader(entry: Path, name: str | None) -> Reader:
    """What reads the file of a published set."""
    subset = named_sets.find_part(entry).subset
    if subset is not None:
        return functools.partial(hdf5.read, subset=subset)
    return lambda file: reader(file, name)(file)


def expand(entry: str | Path) -> list[Path]:
    """The files that a path means: itself, what a pattern matches, or what is in a folder.

    A published set, ``set:SET/PART``, stands for itself; it is not fetched here.

    Of a folder those files are taken whose format holds energies, and the DeePMD systems, in the
    order of their names; a vasprun.xml goes before the OUTCAR of the same run.

    Raises:
        DataError: there is nothing.
    """
    if named_sets.is_named(entry):
        return [Path(f"{named_sets.PREFIX}{named_sets.find_part(entry)}")]
    path = Path(entry).expanduser()
    if path.is_file() or (path.is_dir() and deepmd.is_system(path)):
        return [path]
    if path.is_dir():
        if found := _in_folder(path):
            return found
        raise DataError(f"{path}: the folder holds no file of a known format")
    if glob.has_magic(str(path)):
        matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
        if matches:
            return [file for match in matches for file in expand(match)]
        raise DataError(f"{path}: no file matches")
    raise DataError(f"{path}: no such file")


def _in_folder(folder: Path) -> list[Path]:
    found = {}
    for path in sorted(folder.iterdir()):
        name = None if path.name.startswith(".") else find_format(path)
        if name in READERS or name in _LABELLED:
            found[path] = name
    if "vasp-xml" in found.values():  # the same steps, with more digits
        found = {path: name for path, name in found.items() if name != "vasp-out"}
    forces = {cp2k.forces_file(path) for path, name in found.items() if name == "cp2k-trajectory"}
    return [path for path in found if path not in forces]


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096)
