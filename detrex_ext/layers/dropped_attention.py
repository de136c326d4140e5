"""Attention with dropout that keeps no attention map for the backward pass.

Of a map of L queries and M keys, torch's operators keep the probabilities, the dropped probabilities and the mask. Here
only the mask is kept, a byte an entry, and the probabilities are computed again: one product more, nine times less
memory (the idea of FlashAttention's backward pass, arXiv 2205.14135, section 3.1).

Shape legend: B batch, L queries, M keys, H heads, D channels of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .autocast import as_autocast
from .dropout import keep_mask


def dropped_attention(
    q_BHLD: Tensor, k_BHMD: Tensor, v_BHMD: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """``dropout(softmax(q k^T / sqrt(D))) v``; ``mask`` as in :func:`~detrex_ext.layers.attention.attention`.

    Returns:
        (B, H, L, D), as wide as the values.
    """
    return _DroppedAttention.apply(*as_autocast((q_BHLD, k_BHMD, v_BHMD)), mask, dropout)


def _probabilities(q_BHLD: Tensor, k_BHMD: Tensor, mask: Tensor | None) -> Tensor:
    """(B, H, L, M), fp32 or wider."""
    scores = (q_BHLD * q_BHLD.shape[-1] ** -0.5) @ k_BHMD.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))


class _DroppedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, p: float) -> Tensor:
        with torch.autocast(q.device.type, enabled=False):
            probabilities = _probabilities(q, k, mask)
            keep = None
            if p:
                keep, ctx.scale = keep_mask(probabilities, p)
                probabilities.mul_(keep.view(torch.uint8).to(probabilities.dtype)).mul_(ctx.scale)
            ctx.save_for_backward(q, k, v, mask, keep)
            return probabilities.to(v.dtype) @ v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, mask, keep = ctx.saved_tensors
        kept = _probabilities(q, k, mask)
        grad_map = (grad @ v.transpose(-1, -2)).to(kept.dtype)
        if keep is None:
            grad_v = kept.to(v.dtype).transpose(-1, -2) @ grad
        else:
            factor = keep.view(torch.uint8).to(kept.dtype).mul_(ctx.scale)
            grad_map *= factor
            grad_v = factor.mul_(kept).to(v.dtype).transpose(-1, -2) @ grad
        # softmax: p (g - sum p g)
        grad_map *= kept
        grad_map -= kept.mul_(grad_map.sum(-1, keepdim=True))
        grad_map = grad_map.to(q.dtype)
        scale = q.shape[-1] ** -0.5
        return (grad_map @ k) * scale, grad_map.transpose(-1, -2) @ (q * scale), grad_v, None, None
