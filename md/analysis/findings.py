"""What was asked of a trajectory, and what has been found so far."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from md.analysis.recording import Recording
from md.distributions import Symbols, symbols_of

Asked = bool | Sequence[Symbols] | None


@dataclasses.dataclass
class Findings:
    """Tables as they come to be, and why others do not.

    Attributes:
        recording: the frames.
        asked: what of each quantity: everything (true), pairs or triples of symbols, or nothing
            (false). Where nothing is asked for at all, everything is that can be had, but for what
            is false.
        windows: all frames, and the blocks that errors come from (:mod:`md.analysis.blocks`).
        tables, settings, notes, left_out: see :class:`md.analysis.Analysis`.
    """

    recording: Recording
    asked: Mapping[str, Asked]
    windows: Sequence[slice]
    tables: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def block(self) -> int:
        """Frames in a block."""
        last = self.windows[-1]
        return int(last.stop - last.start)

    def wants(self, name: str) -> bool:
        """Whether a quantity is to be looked at."""
        asked = self.asked[name]
        return asked is not False and (self._everything or asked is not None)

    def attempt(self, names: Sequence[str], look: Callable[[], None]) -> None:
        """Look at quantities; where they were not named, keep the reason why they cannot be had."""
        try:
            look()
        except ValueError as error:
            if not self._everything:
                raise
            self.left_out |= dict.fromkeys(names, str(error))

    def symbols(self, name: str, number: int) -> list[Any] | None:
        """The pairs or triples that were asked for; None: no particular ones."""
        asked = self.asked[name]
        if asked is None or isinstance(asked, bool) or not asked:
            return None
        species, chosen = self.recording.species, [symbols_of(one, number) for one in asked]
        unknown = sorted({symbol for one in chosen for symbol in one} - set(species))
        if unknown:
            raise ValueError(
                f"{self.recording.source.path}: {name}: there is no {unknown[0]} among its "
                f"species, {', '.join(species)}"
            )
        return chosen

    @property
    def _everything(self) -> bool:
        return all(value is None or value is False for value in self.asked.values())
