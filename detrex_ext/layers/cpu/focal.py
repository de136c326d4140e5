"""Dense sigmoid losses whose gradient is found in the forward pass, in closed form.

Of the logits' size one tensor is kept, the gradient; torch's operators would keep five.

Shape legend: N sets, B images, Q queries of a set, K classes, P pairs, R = N B Q rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

CACHED = 1 << 17  # values of one temporary that a CPU core's cache holds beside the others


def dense_sigmoid_loss(
    logits_NBQK: Tensor,
    scale: float,
    gamma: float,
    weight_NBQ: Tensor | None = None,
    corrections: Sequence[tuple[Tensor, Callable[[Tensor], Tensor]]] = (),
    held: bool = False,
) -> Tensor:
    """:func:`detrex_ext.criterion.sigmoid.dense_sigmoid_loss`, (N,) sums."""
    return _DenseSigmoid.apply(logits_NBQK, scale, gamma, weight_NBQ, corrections, held)


class _DenseSigmoid(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, scale: float, gamma: float, weight: Any, corrections: Any, held: bool
    ) -> Tensor:
        wants_grad = ctx.needs_input_grad[0]
        N, K = logits.shape[0], logits.shape[-1]
        x = logits.detach().reshape(-1, K)
        w = None if weight is None else weight.reshape(-1, 1)
        slope = torch.empty_like(x) if wants_grad else None
        sums = _negatives(x, scale, gamma, w, slope, held).view(N, -1).sum(1)
        for entries, function in corrections:
            value, grad = _at_entries(x.view(-1)[entries], function)
            sums = sums.index_add(0, entries // max(1, logits[0].numel()), value)
            if wants_grad:
                slope.view(-1).index_add_(0, entries, grad)
        if wants_grad:
            ctx.save_for_backward(slope.view_as(logits))
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return slope * grad_N.view(-1, 1, 1, 1), None, None, None, None, None


def _at_entries(x_P: Tensor, function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Values of a function at some logits, and their derivatives."""
    with torch.enable_grad():
        x_P = x_P.detach().requires_grad_()
        value = function(x_P)
        (grad,) = torch.autograd.grad(value.sum(), x_P)
    return value.detach(), grad


def _negatives(
    x: Tensor, scale: float, gamma: float, weight: Tensor | None, slope: Tensor | None, held: bool
) -> Tensor:
    """Row sums (R,) of the negatives of x (R, K), weighted by (R, 1); writes their derivatives into ``slope``.

    With s = -log(1 - p): d(p^gamma s)/dx = p^gamma (gamma (1 - p) s + p), or where p^gamma is held p^gamma p.
    """
    R, K = x.shape
    sums = x.new_zeros(R)
    # on a CPU some rows at a time, so that the temporaries stay in its cache
    step = max(1, CACHED // max(1, K)) if x.device.type == "cpu" else max(1, R)
    for start in range(0, R, step):
        rows = slice(start, start + step)
        p = x[rows].sigmoid()
        s = F.softplus(x[rows], threshold=40)
        power = p * p if gamma == 2 else p**gamma
        value = torch.sum(power * s, 1).mul_(scale)
        sums[rows] = value if weight is None else value.mul_(weight[rows, 0])
        if slope is not None:
            if held:
                out = torch.mul(power, p, out=slope[rows]).mul_(scale)
            else:
                out = torch.addcmul(s, s, p, value=-1, out=slope[rows]).mul_(gamma).add_(p).mul_(power).mul_(scale)
            if weight is not None:
                out.mul_(weight[rows])
    return sums
