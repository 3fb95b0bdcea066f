"""The table of published sets is complete, and its parts are found, fetched and unpacked."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import warnings
import zipfile
from collections.abc import Iterator

import pytest

from allegro_jax import cli
from allegro_jax.data import archives, named_sets, set_listing, transfer
from allegro_jax.data.download import ALGORITHMS
from allegro_jax.data.frames import DataError
from tests.allegro_jax.data.file_server import FileServer, serve

SETS = named_sets.named_sets()
ASKED_FOR = (
    *("rmd17", "md17_ccsd", "md22", "qm9", "3bpa", "acac", "li3po4", "ag"),
    *("water", "mlearn", "tm23", "spice", "mptrj"),
)


@pytest.fixture
def mirror(monkeypatch, tmp_path) -> Iterator[FileServer]:
    """A server that stands for all addresses, and an empty data folder."""
    monkeypatch.setattr(transfer, "FIRST_PAUSE", 0.001)
    monkeypatch.setenv("ALLEGRO_JAX_DATA", str(tmp_path / "data"))
    with serve() as state:
        monkeypatch.setenv("ALLEGRO_JAX_MIRROR", state.address)
        yield state


def test_every_set_asked_for_is_there():
    assert set(ASKED_FOR) == set(SETS)


@pytest.mark.parametrize("one", SETS.values(), ids=SETS)
def test_every_entry_is_complete(one):
    for text in (one.title, one.content, one.level, one.citation, one.page):
        assert text.strip() == text
        assert text
    assert re.fullmatch(r"10\.\d{4,5}/\S+", one.doi)
    assert one.licence is None or re.fullmatch(r"[A-Z][\w.-]+", one.licence)  # SPDX
    assert one.files
    assert one.parts
    assert set(one.read_from) == set(one.files)
    for name, file in one.files.items():
        assert file.name == f"{one.name}/{name}"
        assert re.fullmatch(r"[\w.-]+", name)
        assert len(one.read_from[name]) > 20
        assert file.size is None or file.size > 0
        for address in file.addresses:
            assert re.fullmatch(r"https?://[^\s{}]+", address)
        if file.checksum is not None:
            algorithm, digest = file.checksum.split(":")
            assert algorithm in ALGORITHMS
            assert len(digest) == hashlib.new(algorithm).digest_size * 2
            assert digest == digest.lower()


@pytest.mark.parametrize("one", SETS.values(), ids=SETS)
def test_every_part_is_found_by_its_name(one):
    used = set()
    for name, part in one.parts.items():
        assert re.fullmatch(r"[\w./-]+", name)
        assert named_sets.find_part(f"set:{one.name}/{name}") is part
        assert (part.member is not None) == part.file.name.endswith(".zip")
        used |= {part.file, part.exclude}
    assert used - {None} == set(one.files.values())  # no file is there in vain


def test_addresses_are_not_shared():
    addresses = [a for one in SETS.values() for file in one.files.values() for a in file.addresses]
    assert len(set(addresses)) == len(addresses)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rmd71/aspirin/train_01", "rmd71/aspirin/train_01: no such set; did you mean rmd17?"),
        ("set:rmd17/aspirn/train_01", "has no such part; did you mean aspirin/train_01?"),
        ("3bpa", "which part of the set? It has 7: train_300K,"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(name, message):
    with pytest.raises(DataError) as raised:
        named_sets.find_part(name)
    assert message in str(raised.value)


def test_the_only_part_may_be_left_out():
    assert str(named_sets.find_part("set:water")) == "water/all"


def test_files_and_names_are_told_apart():
    assert named_sets.is_named("set:3bpa/train_300K")
    assert not named_sets.is_named("frames.xyz")


def test_a_part_is_fetched(mirror, tmp_path):
    content = b"a file\n"
    mirror.files["/rmd17/aspirin_train_01.npz"] = content
    with pytest.warns(UserWarning, match="is recorded"):
        path = named_sets.resolve("set:rmd17/aspirin/train_01")
    assert path == tmp_path / "data/rmd17/aspirin_train_01.npz"
    assert path.read_bytes() == content


def test_what_a_part_leaves_out_is_fetched_with_it(mirror):
    with pytest.raises(DataError, match=r"qm9/dsgdb9nsd.xyz.tar.bz2: cannot be downloaded"):
        named_sets.fetch("qm9/U0")
    assert [file.name for file in SETS["qm9"].files.values()] == [
        "qm9/dsgdb9nsd.xyz.tar.bz2",
        "qm9/uncharacterized.txt",
    ]


def test_a_part_is_taken_out_of_its_archive(mirror):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("__MACOSX/aspirin_ccsd-train.npz", b"what a Mac adds")
        archive.writestr("aspirin_ccsd-train.npz", b"train")
        archive.writestr("aspirin_ccsd-test.npz", b"test")
    mirror.files["/md17_ccsd/aspirin_ccsd.zip"] = buffer.getvalue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        paths = [named_sets.resolve(f"md17_ccsd/aspirin_ccsd/{part}") for part in ("train", "test")]
    assert [path.read_bytes() for path in paths] == [b"train", b"test"]
    assert len(mirror.requests) == 1


def test_an_archive_is_unpacked_once_and_again_when_it_is_newer(tmp_path):
    path = tmp_path / "set.tar.bz2"

    def write(**members: bytes) -> None:
        with tarfile.open(path, "w:bz2") as archive:
            for name, content in members.items():
                info = tarfile.TarInfo(f"folder/{name}.xyz")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))

    write(one=b"1\n", two=b"2\n")
    joined = archives.unpacked(path, "*.xyz")
    assert joined.read_bytes() == b"1\n2\n"
    assert joined == tmp_path / "set.tar.bz2.files/all.xyz"
    before = joined.stat()
    assert archives.unpacked(path, "*.xyz").stat().st_mtime_ns == before.st_mtime_ns
    assert archives.unpacked(path, "folder/two.xyz").read_bytes() == b"2\n"
    write(one=b"3\n")
    assert archives.unpacked(path, "*.xyz").read_bytes() == b"3\n"
    with pytest.raises(DataError, match=r"holds no folder/two.xyz; it is not the published"):
        archives.unpacked(path, "folder/two.xyz")


def test_what_is_no_archive_is_refused(tmp_path):
    path = tmp_path / "set.zip"
    path.write_bytes(b"no archive")
    with pytest.raises(DataError, match="cannot be unpacked"):
        archives.unpacked(path, "*.xyz")


def test_the_listing_names_all(capsys):
    assert cli.main(["data", "sets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["set", *SETS]
    assert all(one.doi in line for one, line in zip(SETS.values(), lines[1:], strict=True))


@pytest.mark.parametrize("one", SETS.values(), ids=SETS)
def test_a_description_tells_all_that_is_known(one):
    text = " ".join(set_listing.description(one.name).split())
    assert one.doi in text
    assert one.page in text
    for part in one.parts:
        assert part in text
    for file in one.files.values():
        for known in (*file.addresses, file.checksum or "no checksum known"):
            assert known in text


def test_fetching_says_where_the_files_are_and_what_to_cite(mirror, capsys, tmp_path):
    mirror.files["/3bpa/test_dih.xyz"] = b"1\n\nH 0 0 0\n"
    assert cli.main(["data", "fetch", "3bpa/test_dih"]) == 0
    said = capsys.readouterr()
    path, acknowledgement = said.out.splitlines()
    assert path == str(tmp_path / "data/3bpa/test_dih.xyz")
    assert acknowledgement.startswith("Licence: MIT. Please cite Kovács et al.")
    assert "allegro-jax: warning: 3bpa/test_dih.xyz: no checksum was published" in said.err


def test_fetching_without_the_file_fails_in_one_line(mirror, capsys, tmp_path):
    assert cli.main(["data", "fetch", "acac/train_300K"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "404" in line
    assert f"put it at {tmp_path / 'data/acac/train_300K.xyz'} (880100 bytes, sha256" in line


def test_copies_at_hand_have_the_checksums_of_the_table(shared):
    for name in ("3bpa", "acac"):
        for file in SETS[name].files.values():
            copy = shared / "data" / file.name
            if file.checksum is not None and copy.is_file():
                content = copy.read_bytes()
                assert len(content) == file.size
                assert f"sha256:{hashlib.sha256(content).hexdigest()}" == file.checksum
