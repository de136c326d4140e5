"""Values that nobody means, and where they are put."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

DEEP: list = []
for _ in range(250):
    DEEP = [DEEP]
ODD = (
    None, True, False, 0, -1, 1, 1.5, -0.0, 1e400, float("nan"), 2**31, 2**63, 2**64, -(2**63) - 1, 10**30, 10**400, "",
    "x", "1", "-1", "\0", "ä" * 3, "\ud800", "y" * 5000, [], {}, [[]], [1, 2, 3], [None] * 4, {"a": 1}, {"id": {}},
)  # fmt: skip


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value in lists and dicts."""
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], dict | list):
            yield from places(node[key])


def put(rng: random.Random, node: Any, value: Any) -> None:
    """A value in a random place, in place; or the place is taken away, or doubled."""
    holder, key = rng.choice(list(places(node)))
    how = rng.random()
    if how < 0.7:
        holder[key] = value
    elif how < 0.9:
        del holder[key]
    elif isinstance(holder, list):
        holder.append(holder[key])
    else:
        holder[f"{key}{value}"[:40]] = holder[key]
