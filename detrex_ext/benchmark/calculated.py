"""What was calculated as Markdown, with the assumptions under each table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from .largest import CARDS, LOST, OVERHEAD
from .peak import GIB

_CARDS = ", ".join(f"{name} as {gib:g} GiB" for name, gib in CARDS.items())


def memory_table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of `benchmark memory`."""
    first = rows[0]
    head = ["config", "weights", "moments", "kept by the forward pass", f"peak, batch of {first['batch']}"]
    head += ["measured"] if first["measured"] is not None else []
    head += [f"largest batch, {name}" for name in first["largest"]]
    lines = []
    for row in rows:
        sizes = [row[name] for name in ("weights", "moments", "kept", "total")]
        sizes += [row["measured"]] if row["measured"] is not None else []
        lines.append([row["config"], *(f"{x / GIB:.2f}" for x in sizes), *(x or "-" for x in row["largest"].values())])
    objects = ", ".join(map(str, first["objects"][:8])) + (", ..." if len(first["objects"]) > 8 else "")
    notes = [
        f"GiB of a training step of images of {first['height']} x {first['width']} with {objects} objects, "
        f"{first['dtype']}, {first['processes']} process{'es' * (first['processes'] > 1)}; by calculation, see "
        "detrex_ext/benchmark/peak.py",
        f"a card has room for tensors in {1 - LOST:.0%} of what it has beside {OVERHEAD} GiB of its driver and "
        f"libraries ({_CARDS}); scratch memory inside convolutions is not counted",
    ]
    return _table(head, lines, notes)


def scaling_table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of `benchmark scaling`."""
    steps = rows[0]["steps"]
    head = ["config", "step", "gradients", "MB", "buckets"]
    head += [f"{s['gpus']} GPUs, {s['gbits']:g} Gbit/s" for s in steps]
    lines = []
    for row in rows:
        found = [f"{s['efficiency']:.0%} ({s['hidden']:.0%})" for s in row["steps"]]
        numbers = [f"{1e3 * row['step_s']:.0f} ms", row["travels"], f"{row['bytes'] / 2**20:.0f}", row["buckets"]]
        lines.append([row["config"], *numbers, *found])
    notes = [
        "efficiency: time of a step on one GPU over that of many, each with its own batch; in brackets the share of "
        "the time on the network that the backward pass covers; by the model of detrex_ext/benchmark/scaling.py",
    ]
    return _table(head, lines, notes)


def _table(head: Sequence[str], lines: Sequence[Sequence[Any]], notes: Sequence[str]) -> str:
    ways = ["left", *["right"] * (len(head) - 1)]
    text = tabulate(lines, head, "pipe", disable_numparse=True, colalign=ways)
    return "\n".join([text, "", *(f"- {note}" for note in notes)])
