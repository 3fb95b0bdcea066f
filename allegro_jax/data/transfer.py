"""One file over HTTP, in as many attempts as make progress."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tqdm import tqdm

from allegro_jax import __version__

ATTEMPTS = 4  # in a row without a byte received
FIRST_PAUSE = 0.5  # seconds, doubled after each such attempt
TIMEOUT = 60.0  # seconds without an answer
CHUNK = 1 << 20
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}


class UnavailableError(Exception):
    """An address that does not give the file; the message says why."""


class _InterruptedError(Exception):
    """A transfer that may go better the next time; the message says what went wrong."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


def transfer(
    address: str,
    part: Path,
    *,
    name: str,
    size: int | None = None,
    checked: bool = False,
) -> None:
    """Complete a file, asking only for what is missing of it.

    What tells versions of the remote file apart (its entity tag, or its date) is kept in
    ``PART.json`` and sent with the next request, so that a file that has changed in between is
    received from its beginning. A server without either gets no such request unless ``checked``.

    Args:
        address: http or https.
        part: where to write; what it holds already is kept.
        name: for the progress bar.
        size: bytes that the file must have; ``None``: not known.
        checked: a checksum will show a file made of two versions.

    Raises:
        UnavailableError: the address does not give the file.
    """
    if not address.startswith(("http://", "https://")):
        raise UnavailableError("only http and https are spoken here")
    failures, most = 0, _size(part)
    with _Meter(name) as meter:
        while True:
            try:
                _attempt(address, part, size, checked, meter)
                return
            except _InterruptedError as error:
                # a server that always starts anew makes no progress by sending the same again
                failures = 0 if _size(part) > most else failures + 1
                most = max(most, _size(part))
                if failures >= ATTEMPTS:
                    raise UnavailableError(f"{error}, {ATTEMPTS} times in a row") from None
                time.sleep(max(error.wait, FIRST_PAUSE * 2 ** max(failures - 1, 0)))


def _attempt(address: str, part: Path, size: int | None, checked: bool, meter: _Meter) -> None:
    """Receive what is missing of a part."""
    state = Path(f"{part}.json")
    known = read_json(state)
    validator = known.get("validator") if known.get("address") == address else None
    have = _size(part) if validator or checked else 0
    headers = {"User-Agent": f"allegro-jax/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if validator:
            headers["If-Range"] = validator
    request = urllib.request.Request(address, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            start, total = _extent(answer, have)
            if "text/html" in answer.headers.get("Content-Type", ""):
                raise UnavailableError("answered with a web page instead of the file")
            if size is not None and total not in (None, size):
                raise UnavailableError(f"offers {total} bytes instead of {size}")
            _check_space(part, (total or 0) - start)
            write_json(state, {"address": address, "validator": _validator(answer.headers)})
            meter.start(start, total or size)
            with part.open("r+b" if start else "wb") as target:
                target.truncate(start)
                target.seek(start)
                while block := answer.read(CHUNK):
                    target.write(block)
                    meter.add(len(block))
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to ask for, or the file has become shorter
            if _total(error.headers.get("Content-Range", "")) == have:
                return
            part.unlink()
            raise _InterruptedError("the part kept does not fit the file") from None
        if error.code in _TRANSIENT:
            wait = error.headers.get("Retry-After", "")
            seconds = min(float(wait), 300.0) if wait.isdecimal() else 0.0
            raise _InterruptedError(f"HTTP {error.code}", seconds) from None
        raise UnavailableError(f"HTTP {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise _InterruptedError(str(reason) or type(error).__name__) from None
    total = size if total is None else total
    if total is not None and _size(part) != total:
        raise _InterruptedError(f"broken off after {_size(part)} of {total} bytes")


def _extent(answer: Any, have: int) -> tuple[int, int | None]:
    """Where in the file an answer starts, and the size of the whole file."""
    if answer.status == 206:
        span = answer.headers.get("Content-Range", "")
        match = re.match(r"bytes (\d+)-", span)
        if match is None or int(match[1]) != have:
            raise _InterruptedError(f"answered with the range {span!r} instead of {have}-")
        return have, _total(span)
    length = answer.headers.get("Content-Length")
    return 0, int(length) if length is not None else None


def _total(content_range: str) -> int | None:
    """The size of the whole file in ``bytes 5-9/10`` or ``bytes */10``."""
    match = re.search(r"/(\d+)$", content_range)
    return int(match[1]) if match else None


def _validator(headers: Any) -> str | None:
    """What tells the versions of a file apart (RFC 9110, 13.1.5: no weak entity tags)."""
    tag = headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")


def _check_space(part: Path, needed: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise UnavailableError(
            f"{describe_bytes(needed)} to download, {describe_bytes(free)} free in {part.parent}"
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


class _Meter:
    """A live bar on a terminal; elsewhere a line at the start and now and then."""

    def __init__(self, name: str):
        self.name = name
        self.live = sys.stderr.isatty()
        self.done, self.total, self.spoken = 0, 0, 0.0
        self.bar = tqdm(
            desc=name,
            disable=not self.live,
            unit="B",
            unit_scale=True,
            ncols=shutil.get_terminal_size().columns,
        )

    def __enter__(self) -> _Meter:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def start(self, done: int, total: int | None) -> None:
        self.bar.total, self.bar.n = total, done
        self.done, self.total = done, total or 0
        self._tell()

    def add(self, count: int) -> None:
        self.bar.update(count)
        self.done += count
        if time.monotonic() - self.spoken > 10:
            self._tell()

    def _tell(self) -> None:
        self.spoken = time.monotonic()
        if not self.live:
            of = f" of {describe_bytes(self.total)}" if self.total else ""
            print(f"{self.name}: {describe_bytes(self.done)}{of}", file=sys.stderr, flush=True)


def describe_bytes(count: int) -> str:
    """``"37.5 GB"``."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"


def read_json(path: Path) -> dict[str, Any]:
    """A small record beside a file; empty where it is absent or was cut off by a crash."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_json(path: Path, content: dict[str, Any]) -> None:
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(content, indent=2) + "\n")
    fresh.replace(path)
