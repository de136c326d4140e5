"""A transformer encoder over a set of tokens (TSP, arXiv 2011.10881, section 4).

Shape legend: B images, N tokens, C channels.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from .attention import MultiheadAttention, attention, explicit_attention
from .dropout import Dropout
from .mlp import FFN

_ATTENTION = {"sdpa": attention, "math": explicit_attention}


class SetEncoderLayer(nn.Module):
    """Self-attention and FFN, each behind its norm: ``x + branch(norm(x))``. Positions go to queries and keys."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, dropout: float, how: str) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([MultiheadAttention(dim, num_heads, dropout)])
        self.ffns = nn.ModuleList([FFN(dim, ffn_dim, dropout)])
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.dropout = Dropout(dropout, inplace=True)
        self.how = _ATTENTION[how]

    def forward(self, x_BNC: Tensor, pos_BNC: Tensor | None, mask: Tensor | None) -> Tensor:
        """(B, N, C), which stays."""
        attended = self.attentions[0].branch(self.norms[0](x_BNC), pos_BNC, mask, self.how)
        x_BNC = x_BNC + self.dropout(attended)
        return x_BNC + self.ffns[0].branch(self.norms[1](x_BNC))


class SetEncoder(nn.Module):
    """``num_layers`` of pre-norm self-attention over tokens that lie nowhere in particular, and a last norm.

    Nothing here knows of an order of the tokens. Keys: ``layers.{i}.attentions.0.attn.*``, ``layers.{i}.ffns.0.*``,
    ``layers.{i}.norms.{0,1}.*`` and ``norm.*``.

    Args:
        dim, num_heads, ffn_dim, dropout: sizes of a layer. Attention weights, the attention's and the FFN's outcome and
            its hidden units are dropped.
        num_layers: layers.
        attention: ``sdpa``, torch's fused attention, or ``math``, the formula with its whole map in memory.
        checkpoint: recompute the layers in the backward pass: less memory, more time.

    Raises:
        ValueError: an unknown ``attention``.
    """

    def __init__(
        self,
        dim: int = 512,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        dropout: float = 0.1,
        num_layers: int = 6,
        attention: str = "sdpa",
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if attention not in _ATTENTION:
            raise ValueError(f"attention must be one of {', '.join(_ATTENTION)}, got '{attention}'")
        self.layers = nn.ModuleList(
            SetEncoderLayer(dim, num_heads, ffn_dim, dropout, attention) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.dim, self.checkpoint = dim, checkpoint

    def forward(self, x_BNC: Tensor, pos_BNC: Tensor | None = None, pad_BN: Tensor | None = None) -> Tensor:
        """(B, N, C), which stays.

        Args:
            x_BNC: tokens.
            pos_BNC: their position codes, added to queries and keys of every layer behind its norm.
            pad_BN: True = a slot without a token, which nothing attends to; its own outcome is finite and means
                nothing. An image of such slots alone attends to all of them. None = all slots hold tokens.
        """
        mask = None
        if pad_BN is not None:
            mask = (~pad_BN | pad_BN.all(1, keepdim=True))[:, None, None]
        for layer in self.layers:
            if self.checkpoint and self.training:
                x_BNC = recompute(layer, x_BNC, pos_BNC, mask, use_reentrant=False)
            else:
                x_BNC = layer(x_BNC, pos_BNC, mask)
        return self.norm(x_BNC)
