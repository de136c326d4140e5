"""What Linux writes of itself in files: text by path, and the control groups of this process.

Elsewhere, and where a file cannot be read, there is nothing, and nothing fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
_NO_LIMIT = 1 << 60  # version 1 has a number of about 2^63 where there is none


def text_of(path: str | Path) -> str:
    """Text of a file, given from the root; "" where there is none."""
    try:
        return (ROOT / path).read_text(encoding="utf-8", errors="replace").strip()
    except (OSError, ValueError):
        return ""


def cpu_quota() -> float | None:
    """Processors' worth of time that the control groups of this process allow; None = no limit."""
    found = [_divided(*(text.split() + ["", ""])[:2]) for text in _values("", "cpu.max")]  # "200000 100000"
    for folder in _folders("cpu"):
        found.append(_divided(text_of(folder / "cpu.cfs_quota_us"), text_of(folder / "cpu.cfs_period_us")))
    return min((x for x in found if x is not None), default=None)


def memory_limit() -> int | None:
    """Bytes that the control groups of this process allow; None = no limit."""
    texts = [*_values("", "memory.max"), *_values("memory", "memory.limit_in_bytes")]
    return min((n for text in texts if (n := _number(text)) and n < _NO_LIMIT), default=None)


def _folders(controller: str) -> Iterator[Path]:
    """Folders of this process's control groups that have a controller ("" = version 2), from its own to the root."""
    for line in text_of("proc/self/cgroup").splitlines():
        names, _, inner = line.partition(":")[2].partition(":")
        if controller not in names.split(",") or not inner.startswith("/"):
            continue
        # a path from outside of a container is not there; its root always is
        parts = [part for part in inner.split("/") if part not in ("", ".", "..")]
        for mount in {names, controller} if controller else ("", "unified"):
            for depth in range(len(parts), -1, -1):
                yield Path("sys/fs/cgroup", mount, *parts[:depth])


def _values(controller: str, name: str) -> list[str]:
    return [text for folder in _folders(controller) if (text := text_of(folder / name))]


def _divided(quota_us: str, period_us: str) -> float | None:
    quota, period = _number(quota_us), _number(period_us)
    return quota / period if quota and period else None


def _number(text: str) -> int | None:
    """A number above zero of digits that a machine wrote; None for "max", -1 and all else."""
    return int(text) or None if text.isascii() and text.isdecimal() and len(text) < 20 else None
