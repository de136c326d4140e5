"""Reading files of metrics: a JSON object per line, whoever wrote them and however the last line was cut."""

from __future__ import annotations

import json
import math
import os
from typing import Any


def _number(digits: str) -> int | float:
    """A whole number, or where no counter gets so far the nearest that floats have."""
    return int(digits) if len(digits) < 19 else float(digits)


def _finite(text: str) -> float | None:
    """A number that JSON can hold; None for NaN and infinity."""
    return value if math.isfinite(value := float(text)) else None


def metric_lines(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The whole lines of a file of metrics: one cut by a crash is left out. [] where there is no file."""
    if not os.path.isfile(path):
        return []
    lines = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text, parse_int=_number, parse_float=_finite, parse_constant=_finite)
            except (ValueError, RecursionError):
                continue
            if isinstance(line, dict) and type(line.get("iteration")) is int:
                lines.append(line)
    return lines
