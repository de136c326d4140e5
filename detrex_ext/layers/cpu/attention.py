"""Dense attention where torch's fused kernel of a CPU is slow: narrow values, dropout, a mask that learns.

With dropout no map is kept for the backward pass. Of a map of L queries and M keys, torch's operators keep the
probabilities, the dropped probabilities and the mask. Here only the mask is kept, a byte an entry, and the
probabilities are computed again: one product more, nine times less memory (the idea of FlashAttention's backward
pass, arXiv 2205.14135, section 3.1).

Shape legend: B batch, L queries, M keys, H heads, D channels of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .common import as_autocast
from .dropout import dropout as drop_here
from .dropout import fits, keep_mask


def _on_cpu(q: Tensor, mask: Tensor | None, learns: bool) -> bool:
    """Whether it is here, under a mask that learns or one that does not."""
    return q.device.type == "cpu" and (mask is not None and mask.requires_grad) == learns


def fits_padded(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> bool:
    """The fused kernel of torch for a CPU wants values as wide as queries."""
    return dropout == 0.0 and q.shape[-1] > v.shape[-1] and _on_cpu(q, mask, learns=False)


def padded(
    q_BHLD: Tensor, k_BHMD: Tensor, v_BHMD: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """:func:`detrex_ext.layers.attention.attention` with values filled up by zeros, (B, H, L, D of the values)."""
    narrower = q_BHLD.shape[-1] - v_BHMD.shape[-1]
    return F.scaled_dot_product_attention(q_BHLD, k_BHMD, F.pad(v_BHMD, (0, narrower)), attn_mask=mask)[..., :-narrower]


def fits_dropped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> bool:
    """With dropout torch forms the map, and slowly."""
    return dropout > 0.0 and _on_cpu(q, mask, learns=False)


def dropped(
    q_BHLD: Tensor, k_BHMD: Tensor, v_BHMD: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """:func:`detrex_ext.layers.attention.attention` without a map kept, (B, H, L, D of the values)."""
    return _DroppedAttention.apply(*as_autocast((q_BHLD, k_BHMD, v_BHMD)), mask, dropout)


def fits_by_hand(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> bool:
    """For a mask with a gradient torch forms the map, and slowly."""
    return _on_cpu(q, mask, learns=True)


def by_hand(q_BHLD: Tensor, k_BHMD: Tensor, v_BHMD: Tensor, mask: Tensor, dropout: float = 0.0) -> Tensor:
    """:func:`detrex_ext.layers.attention.attention` by its formula: (B, H, L, D of the values).

    The mask is additive and broadcasts to (B, H, L, M).
    """
    map_BHLM = ((q_BHLD * q_BHLD.shape[-1] ** -0.5) @ k_BHMD.transpose(-1, -2) + mask).softmax(-1)
    if dropout:
        map_BHLM = (drop_here if fits(map_BHLM, dropout) else F.dropout)(map_BHLM, dropout)
    return map_BHLM @ v_BHMD


def _probabilities(q_BHLD: Tensor, k_BHMD: Tensor, mask: Tensor | None) -> Tensor:
    """(B, H, L, M), fp32 or wider."""
    scores = (q_BHLD * q_BHLD.shape[-1] ** -0.5) @ k_BHMD.transpose(-1, -2)
    if mask is not None and mask.dtype != torch.bool:
        scores = scores + mask
    elif mask is not None and not mask.all():
        scores.masked_fill_(~mask, float("-inf"))
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
