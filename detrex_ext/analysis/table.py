"""Tables for people."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows under the first one; the first column to the left, the others to the right."""
    sides = ["left", *["right"] * (len(rows[0]) - 1)]
    return tabulate(rows[1:], rows[0], tablefmt="plain", colalign=sides, disable_numparse=True)
