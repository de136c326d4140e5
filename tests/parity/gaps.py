"""How far two sides are apart: each comparison is held to a tolerance, and the largest are told at the end of a run."""

from __future__ import annotations

from torch import Tensor

GAPS: dict[str, float] = {}


def within(what: str, gap: float, tolerance: float) -> None:
    """Fails where ``gap`` exceeds ``tolerance``; the largest under a name goes into the run's table.

    A name that starts with a blank does not.
    """
    if not what.startswith(" "):
        GAPS[what] = max(gap, GAPS.get(what, 0.0))
    assert gap <= tolerance, f"{what}: {gap:.2e}, allowed are {tolerance:.0e}"


def far(a: Tensor, b: Tensor) -> float:
    """Largest difference of two tensors of one shape."""
    assert a.shape == b.shape
    return float((a - b).detach().abs().max())


def relative(a: Tensor | float, b: Tensor | float) -> float:
    """Difference of two numbers as a share of the second."""
    a, b = (float(x.detach()) if isinstance(x, Tensor) else float(x) for x in (a, b))
    return abs(a - b) / max(abs(b), 1e-30)
