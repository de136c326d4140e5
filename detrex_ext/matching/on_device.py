"""One-to-one matching where the costs are: on a GPU no value has to be known to the host.

Shape legend: N sets, G objects of the batch (flat), Q queries, P = N G pairs.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings

import torch
from torch import Tensor

from detrex_ext.structures import Assignment, Pairs, Targets

NEVER = 1e6  # cost of a pair that must not be; far above any real cost, and small enough to leave the others exact
SOLVERS = ("auto", "scipy", "triton")
_KNOWN = [[[3.0, 1.0, 2.0], [3.0, 1.0, 1.0], [0.5, 0.5, 0.5]]]  # of two objects and one
_QUERIES = [1, 2, 0]  # what SciPy finds


@functools.cache
def usable(device: torch.device) -> bool:
    """Whether the solver is there and right on this device: it needs a driver and a compiler, which may lack."""
    if not torch.cuda.is_available() or importlib.util.find_spec("triton") is None:
        return False
    from .triton_solver import solve

    try:
        found = solve(torch.tensor(_KNOWN, device=device), [2, 1])[0].tolist()
    except Exception as e:  # of whatever kind: there is a slower way that always works
        warnings.warn(f"Triton does not work on {device}, matching will be on the host: {e}", stacklevel=2)
        return False
    if found == _QUERIES:
        return True
    warnings.warn(f"Triton's assignment is wrong on {device} ({found}), matching will be on the host", stacklevel=2)
    return False


def chosen(solver: str, cost_NGQ: Tensor, counts: list[int]) -> bool:
    """Whether these problems are solved where they are.

    Args:
        solver: a name of :data:`SOLVERS`; ``auto``: on a GPU on which :func:`usable`.
        cost_NGQ: the costs.
        counts: objects of each image.
    """
    if solver == "scipy" or (solver == "auto" and not (cost_NGQ.device.type == "cuda" and usable(cost_NGQ.device))):
        return False
    from .triton_solver import fits

    return fits(counts, cost_NGQ.shape[2])


def assignment(cost_NGQ: Tensor, targets: Targets) -> Assignment:
    """The assignment of least total cost of every image of every set; places without a pair are marked.

    Where a cost is NaN or infinite, the weights of its object's pairs are NaN, and so are their losses: to look, and
    raise here, would be to wait.
    """
    from .triton_solver import solve

    N = len(cost_NGQ)
    query_NG = solve(cost_NGQ, targets.counts).long()
    at_NG = query_NG.clamp(min=0)
    allowed_NG = cost_NGQ.gather(2, at_NG[..., None])[..., 0] < NEVER / 2
    weight_NG = torch.ones_like(cost_NGQ[..., 0]).masked_fill(~cost_NGQ.isfinite().all(2), torch.nan)
    gt_G = torch.arange(targets.num, device=cost_NGQ.device)
    set_P = torch.arange(N, device=cost_NGQ.device).repeat_interleave(targets.num)
    valid_P = ((query_NG >= 0) & allowed_NG).flatten()
    pairs = Pairs(set_P, targets.image_G.repeat(N), at_NG.flatten(), gt_G.repeat(N), weight_NG.flatten(), valid_P)
    return Assignment(cls=pairs, box=pairs)
