"""Settings: dataclass fields that say how a value of a YAML file is read and checked.

A section of a configuration is a frozen dataclass whose fields are made by the functions below::

    @dataclasses.dataclass(frozen=True)
    class FitConfig:
        epochs: int = whole(200, least=1)
        schedule: str = choice("cosine", SCHEDULES)

    fit = read_section(FitConfig, {"epochs": 50}, "training.")
"""

from __future__ import annotations

import bisect
import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

Section = TypeVar("Section")
Reader = Callable[[str, Any, Path], Any]
"""``(name, value, folder) -> value``, checked; the name is for messages, the folder for paths."""
Ramp = float | Mapping[float | str, float]
"""A number, or values at times, which may be shares of the whole: ``{0: 1, 60%: 1, 100%: 10}``."""


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key."""


def setting(default: Any, read: Reader) -> Any:
    """A field with a reader of its own. ``null`` is taken where it is the default."""
    return dataclasses.field(default=default, metadata={"read": read})


def whole(default: int | None, *, least: int) -> Any:
    """A whole number of at least ``least``."""
    return setting(default, lambda name, value, _: read_whole(name, value, least=least))


def number(
    default: float | None,
    *,
    above: float | int = -math.inf,
    least: float | int = -math.inf,
    below: float | int = math.inf,
    most: float | int = math.inf,
    null: bool = False,
) -> Any:
    """A finite number within bounds; ``above`` and ``below`` are not reached. ``null`` is taken if
    it is said to be."""
    bounds = {"above": above, "least": least, "below": below, "most": most}

    def read(name: str, value: Any, _: Path) -> float | None:
        return None if null and value is None else read_number(name, value, **bounds)

    return setting(default, read)


def numbers(default: Mapping[str, float] | None, *, least: float | int = -math.inf) -> Any:
    """Numbers by name: ``{H: 1, O: 2}``."""
    return setting(default, lambda name, value, _: read_numbers(name, value, least=least))


def ramp(default: float, *, least: float | int = -math.inf) -> Any:
    """A number, or one that changes (:data:`Ramp`)."""

    def read(name: str, value: Any, _: Path) -> Ramp:
        if not isinstance(value, Mapping):
            return read_number(name, value, least=least)
        found = {
            _read_time(name, time): number
            for time, number in read_numbers(name, value, least=least).items()
        }
        return {time: found[time] for time in sorted(found, key=_number_of)}

    return setting(default, read)


def choice(default: str | None, choices: Sequence[str]) -> Any:
    """One of several words."""
    return setting(default, lambda name, value, _: read_choice(name, value, choices))


def boolean(default: bool) -> Any:
    """``true`` or ``false``."""
    return setting(default, lambda name, value, _: read_boolean(name, value))


def text(default: str | None) -> Any:
    """Text, not empty."""
    return setting(default, lambda name, value, _: read_text(name, value))


def files(default: tuple[Path, ...] = ()) -> Any:
    """A file or a list of files, which must exist."""
    return setting(default, lambda name, value, folder: read_files(name, value or [], folder))


def names(section: type) -> list[str]:
    """The keys of a section."""
    return [field.name for field in dataclasses.fields(section)]  # type: ignore[arg-type]


def read_section(
    section: type[Section], content: Any, prefix: str, folder: str | Path = "."
) -> Section:
    """A section from plain data.

    Args:
        section: a dataclass of settings.
        content: what the file says.
        prefix: what to put before keys in messages, ``"training."``.
        folder: paths are relative to it.

    Raises:
        ConfigError: an unknown key, or a value that its field refuses.
    """
    if not isinstance(content, Mapping):
        where = prefix.rstrip(".") or "the file"
        raise ConfigError(f"{where}: expected key: value pairs, got {content!r}")
    check_keys(content, names(section), prefix)
    values = {}
    for field in dataclasses.fields(section):  # type: ignore[arg-type]
        if field.name not in content:
            continue
        value = content[field.name]
        absent = value is None and field.default is None
        read: Reader = field.metadata["read"]
        values[field.name] = None if absent else read(prefix + field.name, value, Path(folder))
    return section(**values)


def check_keys(content: Mapping[str, Any], known: Sequence[str], prefix: str) -> None:
    """Refuse keys that are not known.

    Raises:
        ConfigError: naming the nearest key that is.
    """
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known are {', '.join(known)}"
            raise ConfigError(f"{prefix}{key}: no such key; {hint}")


def value_at(ramp: Ramp, time: float, whole: float | int) -> float:
    """A ramp on straight lines between its points, level before and after them.

    Args:
        ramp: a number, or numbers by time.
        time: where it is asked for.
        whole: the time that times in percent are shares of.
    """
    if not isinstance(ramp, Mapping):
        return ramp
    points = {_time_of(key, whole): value for key, value in ramp.items()}
    times = sorted(points)
    place = bisect.bisect(times, time)
    if place in (0, len(times)):
        return points[times[max(place - 1, 0)]]
    before, after = times[place - 1 : place + 1]
    share = (time - before) / (after - before)
    return (1 - share) * points[before] + share * points[after]


def last_value(ramp: Ramp, whole: float | int) -> float:
    """The value that a ramp ends with (:func:`value_at`)."""
    return value_at(ramp, math.inf, whole)


def _number_of(time: float | str) -> tuple[bool, float]:
    """Orders times: numbers first, then those in percent."""
    if isinstance(time, str):
        return True, float(time.removesuffix("%"))
    return False, time


def _time_of(time: float | str, whole: float | int) -> float:
    in_percent, number = _number_of(time)
    return number / 100 * whole if in_percent else number


def _read_time(name: str, value: Any) -> float | str:
    """A number, or a share such as ``60%``."""
    if isinstance(value, str) and value.endswith("%"):
        return f"{read_number(name, value.removesuffix('%'), least=0, most=100):g}%"
    return read_number(name, value, least=0)


def plain(value: Any) -> Any:
    """Settings as JSON data."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


# -- readers ---------------------------------------------------------------------------------------


def read_whole(name: str, value: Any, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name}: expected a whole number of at least {least}, got {value!r}")
    return value


def read_number(
    name: str,
    value: Any,
    *,
    above: float | int = -math.inf,
    least: float | int = -math.inf,
    below: float | int = math.inf,
    most: float | int = math.inf,
) -> float:
    try:
        if isinstance(value, bool):
            raise TypeError
        found = float(value)  # YAML reads 1e-3 as text
    except (TypeError, ValueError):
        raise ConfigError(f"{name}: expected a number, got {value!r}") from None
    bounds = [
        words
        for words, bound in (
            (f"above {above:g}", above),
            (f"of at least {least:g}", least),
            (f"below {below:g}", below),
            (f"of at most {most:g}", most),
        )
        if math.isfinite(bound)
    ]
    inside = above < found < below and least <= found <= most
    if not math.isfinite(found) or not inside:
        raise ConfigError(f"{name}: expected a number {' and '.join(bounds)}, got {value!r}")
    return found


def read_numbers(name: str, value: Any, *, least: float | int = -math.inf) -> dict[str, float]:
    if not isinstance(value, Mapping) or not value:
        raise ConfigError(f"{name}: expected name: number pairs, got {value!r}")
    return {
        str(key): read_number(f"{name}.{key}", item, least=least) for key, item in value.items()
    }


def read_choice(name: str, value: Any, choices: Sequence[str]) -> str:
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{name}: {value!r} is not one of {', '.join(choices)}{hint}")
    return value


def read_boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{name}: expected true or false, got {value!r}")
    return value


def read_text(name: str, value: Any) -> str:
    if not isinstance(value, str | Path) or not str(value):
        raise ConfigError(f"{name}: expected text, got {value!r}")
    return str(value)


def read_files(name: str, value: Any, folder: Path) -> tuple[Path, ...]:
    values = [value] if isinstance(value, str | Path) else value
    if not isinstance(values, Sequence) or not all(isinstance(v, str | Path) for v in values):
        raise ConfigError(f"{name}: expected a file or a list of files, got {value!r}")
    paths = tuple(folder / Path(path).expanduser() for path in values)
    for path in paths:
        if not path.is_file():
            raise ConfigError(f"{name}: {path}: no such file")
    return paths
