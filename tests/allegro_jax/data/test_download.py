"""Downloads against a server of our own: broken off, wrong, changed, absent, and by two at once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator

import pytest

from allegro_jax.data import download, transfer
from allegro_jax.data.download import RemoteFile, data_folder, fetch_file
from allegro_jax.data.frames import DataError
from tests.allegro_jax.data.file_server import FileServer, serve

CONTENT = random.Random(0).randbytes(300_000)
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serve() as state:
        state.files["/frames.xyz"] = CONTENT
        yield state


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(transfer, "FIRST_PAUSE", 0.001)
    monkeypatch.delenv("ALLEGRO_JAX_MIRROR", raising=False)


@pytest.fixture
def file(server) -> RemoteFile:
    return RemoteFile("set/frames.xyz", (f"{server.address}/frames.xyz",), len(CONTENT), MD5)


def test_a_file_is_downloaded_once(server, file, tmp_path):
    path = fetch_file(file, tmp_path)
    assert path == tmp_path / "set/frames.xyz"
    assert path.read_bytes() == CONTENT
    assert fetch_file(file, tmp_path) == path
    assert server.asked == [None]
    record = json.loads((tmp_path / "set/frames.xyz.json").read_text())
    assert record["sha256"] == SHA256
    assert record["address"] == file.addresses[0]
    left = {path.name for path in (tmp_path / "set").iterdir()}
    assert left == {"frames.xyz", "frames.xyz.json", "frames.xyz.lock"}


@pytest.mark.parametrize("checksum", [MD5, None])
def test_a_broken_download_asks_only_for_what_is_missing(server, file, tmp_path, checksum):
    server.breaks = [100_000, 50_000]
    file = dataclasses.replace(file, checksum=checksum)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert fetch_file(file, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-", "bytes=150000-"]
    assert server.sent == [100_000, 50_000, 150_000]
    assert all("If-Range" in headers for _, headers in server.requests[1:])


def test_a_download_resumes_in_a_later_run(server, file, tmp_path, monkeypatch):
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    server.breaks = [100_000]
    with monkeypatch.context() as patch:
        patch.setattr(transfer.time, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch_file(file, tmp_path)
    assert not (tmp_path / "set/frames.xyz").exists()
    assert (tmp_path / "set/frames.xyz.part").stat().st_size == 100_000
    fetch_file(file, tmp_path)
    assert server.sent == [100_000, 200_000]


def test_a_file_that_changed_in_between_starts_anew(server, file, tmp_path):
    other = bytes(len(CONTENT))
    part = tmp_path / "set/frames.xyz.part"
    part.parent.mkdir()
    part.write_bytes(other[:1000])
    state = {"address": file.addresses[0], "validator": '"of another version"'}
    (tmp_path / "set/frames.xyz.part.json").write_text(json.dumps(state))
    assert fetch_file(file, tmp_path).read_bytes() == CONTENT
    assert server.sent == [len(CONTENT)]


def test_without_tag_and_checksum_two_versions_are_never_joined(server, file, tmp_path):
    server.tags, server.breaks = False, [100_000]
    with pytest.warns(UserWarning, match="is recorded"):
        path = fetch_file(dataclasses.replace(file, checksum=None), tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, None]


def test_a_server_without_ranges_sends_all_again(server, file, tmp_path):
    server.ranges, server.breaks = False, [100_000]
    assert fetch_file(file, tmp_path).read_bytes() == CONTENT
    assert server.sent == [100_000, len(CONTENT)]


def test_a_part_that_is_complete_is_not_asked_for_again(server, file, tmp_path):
    part = tmp_path / "set/frames.xyz.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT)
    assert fetch_file(file, tmp_path).read_bytes() == CONTENT
    assert server.sent == []


def test_a_busy_server_is_asked_again(server, file, tmp_path):
    server.statuses = [503, 429]
    assert fetch_file(file, tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == 3


def test_a_wrong_checksum_names_both_and_keeps_the_file_aside(server, file, tmp_path):
    wrong = f"md5:{'0' * 32}"
    with pytest.raises(DataError) as raised:
        fetch_file(dataclasses.replace(file, checksum=wrong), tmp_path)
    message = str(raised.value)
    aside = tmp_path / "set/frames.xyz.wrong"
    for text in ("set/frames.xyz", MD5.removeprefix("md5:"), "0" * 32, str(aside)):
        assert text in message
    assert aside.read_bytes() == CONTENT
    assert not (tmp_path / "set/frames.xyz").exists()
    # and it can be tried again
    assert fetch_file(file, tmp_path).read_bytes() == CONTENT


def test_an_absent_file_says_what_to_put_where(server, file, tmp_path):
    absent = dataclasses.replace(file, addresses=(f"{server.address}/gone.xyz",))
    with pytest.raises(DataError) as raised:
        fetch_file(absent, tmp_path)
    message = str(raised.value)
    for text in ("404", absent.addresses[0], str(tmp_path / "set/frames.xyz"), "300000 bytes"):
        assert text in message
    assert MD5.replace(":", " ") in message
    assert len(server.requests) == 1  # asking again would not help
    assert "\n" not in message


def test_the_next_address_is_tried(server, file, tmp_path):
    both = (f"{server.address}/gone.xyz", *file.addresses)
    assert fetch_file(dataclasses.replace(file, addresses=both), tmp_path).is_file()


def test_without_network_the_message_says_what_to_put_where(file, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}/frames.xyz"
    with pytest.raises(DataError) as raised:
        fetch_file(dataclasses.replace(file, addresses=(closed,)), tmp_path)
    message = str(raised.value)
    assert "refused" in message
    assert f"get {closed} and put it at {tmp_path / 'set/frames.xyz'}" in message


def test_a_file_put_there_by_hand_is_taken_and_checked(server, file, tmp_path):
    nowhere = dataclasses.replace(file, addresses=(), page="https://example.org/record/1")
    with pytest.raises(DataError, match=r"by hand from https://example.org/record/1 and put it at"):
        fetch_file(nowhere, tmp_path)
    path = tmp_path / "set/frames.xyz"
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(DataError, match="wrong checksum"):
        fetch_file(nowhere, tmp_path)
    path.write_bytes(CONTENT)
    assert fetch_file(nowhere, tmp_path) == path
    assert server.requests == []


def test_a_hash_is_recorded_at_the_first_copy_and_holds_later_ones(server, file, tmp_path):
    unknown = dataclasses.replace(file, checksum=None, size=None)
    with pytest.warns(UserWarning, match=rf"no checksum was published .* {SHA256}"):
        path = fetch_file(unknown, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fetch_file(unknown, tmp_path)
    path.unlink()
    server.files["/frames.xyz"] = CONTENT[::-1]
    with pytest.raises(DataError, match=rf"instead of {SHA256}, recorded of the first copy in"):
        fetch_file(unknown, tmp_path)


def test_a_file_that_changed_on_disk_is_noticed(file, tmp_path):
    path = fetch_file(file, tmp_path)
    path.write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(DataError, match="wrong checksum"):
        fetch_file(file, tmp_path)
    path.write_bytes(CONTENT)
    assert fetch_file(file, tmp_path) == path


def test_a_kept_file_needs_no_permission_to_write(file, tmp_path, monkeypatch):
    path = fetch_file(file, tmp_path)

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(download, "lock", refuse)
    assert fetch_file(file, tmp_path) == path


@pytest.mark.parametrize(
    ("change", "message"),
    [({"size": 7}, "offers 300000 bytes instead of 7"), ({}, "a web page instead of the file")],
)
def test_what_is_plainly_not_the_file_is_refused(server, file, tmp_path, change, message):
    if not change:
        server.content_type = "text/html; charset=utf-8"
    with pytest.raises(DataError, match=message):
        fetch_file(dataclasses.replace(file, **change), tmp_path)
    assert not (tmp_path / "set/frames.xyz").exists()


def test_other_schemes_are_refused(file, tmp_path):
    with pytest.raises(DataError, match="only http and https"):
        fetch_file(dataclasses.replace(file, addresses=("file:///etc/hostname",)), tmp_path)


def test_a_mirror_is_asked_instead(server, file, tmp_path, monkeypatch):
    monkeypatch.setenv("ALLEGRO_JAX_MIRROR", f"{server.address}/mirror/")
    server.files["/mirror/set/frames.xyz"] = CONTENT
    fetch_file(dataclasses.replace(file, addresses=("http://127.0.0.1:1/x",)), tmp_path)
    assert [path for path, _ in server.requests] == ["/mirror/set/frames.xyz"]


def test_two_processes_at_once_download_once(server, file, tmp_path):
    program = (
        "import sys; from pathlib import Path; "
        "from allegro_jax.data.download import RemoteFile, fetch_file; "
        "file = RemoteFile('set/frames.xyz', (sys.argv[1],), None, sys.argv[2]); "
        "print(fetch_file(file, Path(sys.argv[3])).stat().st_size)"
    )
    command = [sys.executable, "-c", program, file.addresses[0], MD5, str(tmp_path)]
    pair = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=60)[0] for process in pair] == ["300000\n"] * 2
    assert server.asked == [None]


def test_progress_is_told_where_there_is_no_terminal(server, file, tmp_path, capsys):
    server.breaks = [100_000]
    fetch_file(file, tmp_path)
    told = capsys.readouterr().err.splitlines()
    assert told == [f"set/frames.xyz: {done} of 300 kB" for done in ("0 B", "100 kB")]


def test_where_files_are_kept(monkeypatch, tmp_path):
    monkeypatch.delenv("ALLEGRO_JAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("ALLEGRO_JAX_DATA", raising=False)
    assert data_folder() == tmp_path / "allegro-jax" / "data"
    monkeypatch.setenv("ALLEGRO_JAX_DATA", os.fspath(tmp_path / "mine"))
    assert data_folder() == tmp_path / "mine"


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (37_479_271_148, "37.5 GB")]
)
def test_sizes_are_readable(count, text):
    assert transfer.describe_bytes(count) == text
