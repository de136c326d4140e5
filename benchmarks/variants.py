"""What benchmarks/compare.py trains: variants by name, and bare runs as long as each took."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from tables import Run

Variant = tuple[str, str, str]


def split(text: str) -> tuple[str, list[str]]:
    """Overlays and overrides of a variant."""
    words = text.split()
    overlays = words[0] if words and "=" not in words[0] else ""
    return overlays, words[bool(overlays) :]


def named(text: str) -> tuple[str, str]:
    """(name, rest) of ``name: rest``; without a name the text is its own."""
    name, mark, rest = text.partition(": ")
    return (name, rest.strip()) if mark else (text, text)


def as_long(bare: Iterable[Run], other: Iterable[Run], grid: int = 1) -> int:
    """Steps the bare model makes in the processor time of another (medians over seeds), rounded up to a grid."""
    bare, other = list(bare), list(other)
    ratio = statistics.median(r.cpu_s for r in other) / statistics.median(r.cpu_s for r in bare)
    steps = round(bare[0].steps * ratio)
    return -(-steps // grid) * grid


def variants(configs: Sequence[str], base: str, overlays: Sequence[str]) -> list[Variant]:
    """(name, config, overlays) of every variant; the bare one of a config comes before those laid over it."""
    found = []
    for config in configs:
        name = "bare" if len(configs) == 1 else Path(config).stem
        found.append((name, config, base))
        for text in overlays:
            title, rest = named(text)
            own, overrides = split(rest)
            title = f"+{title}" if len(configs) == 1 else f"{name} +{title}"
            found.append((title, config, " ".join([",".join(filter(None, [base, own])), *overrides]).strip()))
    return found


def longer(made: list[Variant], base: str, runs: Sequence[Run], grid: int) -> tuple[list[Variant], list[str]]:
    """Bare runs as long as each overlay took, each length once, and which is whose.

    Returns:
        variants, of the name ``bare, N steps``, and lines that say which belongs to which overlay.
    """
    wanted, lines = {}, []
    for name, config, overlay in made:
        if overlay != base:
            bare = [r for r in runs if (r.config, r.overlay) == (config, base)]
            steps = as_long(bare, [r for r in runs if r.variant == name], grid)
            title = f"{bare[0].variant}, {steps} steps"
            wanted[title] = (title, config, f"{base} train.max_iter={steps}".strip())
            lines.append(f"- {name} takes the time of {title}")
    return list(wanted.values()), lines
