"""Tables as CSV files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from md.durable import replacing


def write_csv(path: Path, columns: Mapping[str, Any]) -> None:
    """Write columns of equal length, of numbers or words, as CSV; NaN becomes an empty cell.

    Numbers have ten significant digits: units make some columns small.
    """

    def cell(value: Any) -> str:
        if isinstance(value, (str, int, np.integer)):
            return str(value)
        return "" if np.isnan(value) else repr(float(f"{value:.10g}"))

    rows = zip(*columns.values(), strict=True)
    lines = [",".join(columns), *(",".join(map(cell, row)) for row in rows)]
    with replacing(path) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
