"""Chemical symbols as indices into the species of a potential."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def species_indices(
    symbols: Sequence[str] | Any,
    species: Sequence[str],
    where: str = "the structure",
    mend: str = "",
    error: type[ValueError] = ValueError,
) -> np.ndarray:
    """Index of each symbol among the species.

    Args:
        symbols: chemical symbols.
        species: those that the potential knows.
        where, mend: for the message: what holds the symbols, and what could be done.
        error: what to raise.

    Raises:
        ValueError: if a symbol is not among the species; one line that names it.
    """
    index = {symbol: number for number, symbol in enumerate(species)}
    unknown = sorted(set(symbols) - set(index))
    if unknown:
        raise error(
            f"{where}: species: the potential knows {', '.join(species)}, not "
            f"{', '.join(unknown)}{mend}"
        )
    return np.asarray([index[symbol] for symbol in symbols], np.int32)
