"""Dense attention behind one function, and multi-head attention with detrex's parameter names.

Shape legend: B batch (images, or images x folded domains), L queries, M keys, H heads, D channels of a head, C = H D.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .dropout import dropout as drop


def attention(
    q_BHLD: Tensor, k_BHMD: Tensor, v_BHMD: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """softmax(q k^T / sqrt(D)) v, with a mask that broadcasts to (B, H, L, M): bool (True = may attend) or additive.

    torch's fused kernel is used where it is the faster one (suite ``attention`` of the benchmark): always but on a CPU
    with dropout or a mask that needs a gradient, where it forms the map itself and slowly; here that is done better.

    Returns:
        (B, H, L, D).
    """
    on_cpu = q_BHLD.device.type == "cpu"
    if not on_cpu or (dropout == 0.0 and (mask is None or not mask.requires_grad)):
        return F.scaled_dot_product_attention(q_BHLD, k_BHMD, v_BHMD, attn_mask=mask, dropout_p=dropout)
    scores = (q_BHLD * q_BHLD.shape[-1] ** -0.5) @ k_BHMD.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return drop(scores.softmax(-1), dropout) @ v_BHMD


class MultiheadAttention(nn.Module):
    """Multi-head attention with residual; positions are added to query and key, never to the value.

    Keys: ``attn.in_proj_weight`` (3C, C) with q, k, v stacked, ``attn.in_proj_bias``, ``attn.out_proj.*``.

    Args:
        dim: C.
        num_heads: H.
        dropout: on the attention weights.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        # torch's module holds the parameters under the names every checkpoint uses; the computation is `attention`
        self.attn = nn.MultiheadAttention(dim, num_heads, dropout=dropout, batch_first=True)
        self.num_heads = num_heads

    def forward(self, x_BLC: Tensor, pos_BLC: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Self-attention: x + out(attend(x + pos, x + pos, x)). ``mask`` as in :func:`attention`."""
        weight, bias, dim = self.attn.in_proj_weight, self.attn.in_proj_bias, x_BLC.shape[-1]
        at = x_BLC if pos_BLC is None else x_BLC + pos_BLC
        q, k = F.linear(at, weight[: 2 * dim], bias[: 2 * dim]).chunk(2, -1)
        v = F.linear(x_BLC, weight[2 * dim :], bias[2 * dim :])
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        out = attention(q, k, v, mask, self.attn.dropout if self.training else 0.0)
        return x_BLC + self.attn.out_proj(out.transpose(1, 2).flatten(-2))
