"""Dense attention behind one function, and multi-head attention with detrex's parameter names.

Shape legend: B batch (images, or images x folded domains), L queries, M keys, H heads, D channels of a head, C = H D.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .cpu import kernels
from .cpu.common import eager

Attend = Callable[..., Tensor]


@kernels("attention")
def attention(
    q_BHLD: Tensor, k_BHMD: Tensor, v_BHMD: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """softmax(q k^T / sqrt(D)) v, with a mask that broadcasts to (B, H, L, M): bool (True = may attend) or additive.

    Returns:
        (B, H, L, D), as wide as the values.
    """
    return F.scaled_dot_product_attention(q_BHLD, k_BHMD, v_BHMD, attn_mask=mask, dropout_p=dropout)


def explicit_attention(
    q_BHLD: Tensor, k_BHMD: Tensor, v_BHMD: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """:func:`attention` by its formula, with the whole (B, H, L, M) map in memory: to compare with."""
    scores_BHLM = (q_BHLD * q_BHLD.shape[-1] ** -0.5) @ k_BHMD.transpose(-1, -2)
    if mask is not None:
        scores_BHLM = scores_BHLM.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores_BHLM + mask
    return F.dropout(scores_BHLM.softmax(-1), dropout) @ v_BHMD


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
        return x_BLC + self.branch(x_BLC, pos_BLC, mask)

    def branch(
        self, x_BLC: Tensor, pos_BLC: Tensor | None = None, mask: Tensor | None = None, how: Attend = attention
    ) -> Tensor:
        """Self-attention without its residual, for layers whose residual is not the input of the attention.

        Args:
            x_BLC: content.
            pos_BLC: added to queries and keys.
            mask: as in :func:`attention`.
            how: :func:`attention`, or :func:`explicit_attention`.
        """
        dim = x_BLC.shape[-1]
        q, k = self._project(_placed(x_BLC, pos_BLC), 0, 2 * dim).chunk(2, -1)
        kv = split_heads(k, self.num_heads), split_heads(self._project(x_BLC, 2 * dim, 3 * dim), self.num_heads)
        return self._attend(q, kv, mask, how)

    def project(self, memory_BMC: Tensor, pos_BMC: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Keys (of memory + pos) and values (of memory) for :meth:`cross`, each (B, H, M, D)."""
        dim = memory_BMC.shape[-1]
        k = self._project(_placed(memory_BMC, pos_BMC), dim, 2 * dim)
        v = self._project(memory_BMC, 2 * dim, 3 * dim)
        return split_heads(k, self.num_heads), split_heads(v, self.num_heads)

    def cross(
        self, x_BLC: Tensor, pos_BLC: Tensor | None, kv: tuple[Tensor, Tensor], mask: Tensor | None = None
    ) -> Tensor:
        """Cross-attention: x + out(attend(x + pos, keys, values)), with ``kv`` of :meth:`project`."""
        return x_BLC + self._attend(self._project(_placed(x_BLC, pos_BLC), 0, x_BLC.shape[-1]), kv, mask)

    def _project(self, x: Tensor, start: int, end: int) -> Tensor:
        return F.linear(x, self.attn.in_proj_weight[start:end], self.attn.in_proj_bias[start:end])

    def _attend(
        self, q_BLC: Tensor, kv: tuple[Tensor, Tensor], mask: Tensor | None, how: Attend = attention
    ) -> Tensor:
        dropout = self.attn.dropout if self.training else 0.0
        return self.attn.out_proj(join_heads(how(split_heads(q_BLC, self.num_heads), *kv, mask, dropout)))


def split_heads(x_BLC: Tensor, num_heads: int) -> Tensor:
    """(B, L, C) -> (B, H, L, D)."""
    return x_BLC.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def join_heads(x_BHLD: Tensor) -> Tensor:
    """(B, H, L, D) -> (B, L, C)."""
    return x_BHLD.transpose(1, 2).flatten(-2)


def key_mask(pad_BM: Tensor | None) -> Tensor | None:
    """The mask of :func:`attention` that leaves out padded keys; None where there are none, as far as that is free."""
    if pad_BM is None:
        return None
    free = pad_BM.device.type == "cpu" and eager()
    return None if free and not pad_BM.any() else ~pad_BM[:, None, None]


def _placed(x: Tensor, pos: Tensor | None) -> Tensor:
    return x if pos is None else x + pos
