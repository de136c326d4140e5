"""Self-attention that learned tokens steer (Mr. DETR, arXiv 2412.10028, section 3.3).

Shape legend: B batch, L queries, N learned tokens, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class InstructedAttention(nn.Module):
    """A layer's self-attention with learned tokens before the queries, whose own outcome is left out.

    Queries that the last one may not see (denoising) do not see the tokens either.

    Args:
        attention: from content, positions and mask to content, as ``MultiheadAttention``.
        tokens_NC: content of the tokens.
        places_NC: their positions.
    """

    def __init__(self, attention: nn.Module, tokens_NC: nn.Parameter, places_NC: nn.Parameter) -> None:
        super().__init__()
        self.attention, self.tokens_NC, self.places_NC = attention, tokens_NC, places_NC

    def forward(self, x_BLC: Tensor, pos_BLC: Tensor | None, mask: Tensor | None) -> Tensor:
        """(B, L, C) as of the attention; without ``pos_BLC`` positions are part of the content, those of tokens too."""
        first_NC, num = self.tokens_NC, len(self.tokens_NC)
        if pos_BLC is None:
            first_NC = first_NC + self.places_NC
        else:
            pos_BLC = torch.cat([self.places_NC.expand(len(x_BLC), -1, -1), pos_BLC], 1)
        if mask is not None:
            mask = _with_tokens(mask, num)
        return self.attention(torch.cat([first_NC.expand(len(x_BLC), -1, -1), x_BLC], 1), pos_BLC, mask)[:, num:]


def _with_tokens(mask_LL: Tensor, num: int) -> Tensor:
    """A mask (..., L, L), true = may attend or additive, of ``num`` tokens more, which come first and see all."""
    seen = mask_LL[..., -1:, :].transpose(-1, -2)
    if mask_LL.dtype != torch.bool:  # what is added says nothing else of tokens
        seen = torch.zeros_like(seen).masked_fill(seen.isneginf(), -torch.inf)
    wide = torch.cat([seen.expand(*seen.shape[:-1], num), mask_LL], -1)
    return F.pad(wide, (0, 0, num, 0), value=float(mask_LL.dtype == torch.bool))
