"""Multi-scale deformable attention (Deformable-DETR, arXiv 2010.04159, section 4.1, equation 3).

Shape legend: B images, T queries, S memory tokens of all levels, H heads, D channels of a head, C = H D, L levels,
K points.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from detrex_ext.structures.placing import placed

from . import ms_deform_backends
from .dropout import Dropout
from .ms_deform_backends import Shapes


def ms_deform_attn(
    value_BSHD: Tensor, shapes: Shapes, at_BTHLK2: Tensor, weight_BTHLK: Tensor, backend: str = "auto"
) -> Tensor:
    """Weighted sum of values sampled bilinearly at points of every level; zero outside a map.

    Sampling runs in at least fp32 whatever the autocast type; values may stay in half precision. A level without cells
    adds nothing or is refused, as the backend has it.

    Args:
        value_BSHD: projected memory, levels side by side.
        shapes: (height, width) of each level.
        at_BTHLK2: sampling points as (x, y) in [0, 1] of each level's map.
        weight_BTHLK: attention weights.
        backend: a name of :data:`ms_deform_backends.NAMES`, or ``auto``: what the environment variable
            ``DETREX_EXT_MS_DEFORM`` says, or the fastest for the device.

    Returns:
        (B, T, C), in at least fp32; ``triton`` rounds it to values' type where that is half precision.

    Raises:
        ValueError: for an unknown backend.
        RuntimeError: for one that is not usable here.
    """
    sample = ms_deform_backends.load(ms_deform_backends.choose(value_BSHD, at_BTHLK2) if backend == "auto" else backend)
    dtype = torch.promote_types(torch.promote_types(value_BSHD.dtype, at_BTHLK2.dtype), torch.float32)
    with torch.autocast(value_BSHD.device.type, enabled=False):
        if not at_BTHLK2.shape[1]:
            # no query, as on a rank without denoising: an empty result that keeps its inputs in the graph
            empty = (value_BSHD.sum() + at_BTHLK2.sum() + weight_BTHLK.sum()).to(dtype)
            return empty.expand(len(value_BSHD), 0, value_BSHD.shape[2] * value_BSHD.shape[3])
        return sample(value_BSHD, shapes, at_BTHLK2.to(dtype), weight_BTHLK.to(dtype))


class MSDeformAttn(nn.Module):
    """Multi-scale deformable attention with residual.

    Keys: ``sampling_offsets``, ``attention_weights``, ``value_proj``, ``output_proj``.

    Args:
        dim: C.
        num_heads, num_levels, num_points: H, L, K.
        dropout: on the output.
    """

    def __init__(self, dim: int, num_heads: int, num_levels: int, num_points: int, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} must divide by num_heads {num_heads}")
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        self.sampling_offsets = nn.Linear(dim, num_heads * num_levels * num_points * 2)
        self.attention_weights = nn.Linear(dim, num_heads * num_levels * num_points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self.dropout = Dropout(dropout, inplace=True)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Heads look in H directions, point k at k + 1 cells; all weights equal (the paper's section A.2)."""
        for linear in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        theta = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        way_H2 = torch.stack([theta.cos(), theta.sin()], -1)
        way_H2 = way_H2 / way_H2.abs().amax(-1, keepdim=True)
        steps_K = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        bias = way_H2[:, None, None] * steps_K[:, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(bias.expand(-1, self.num_levels, -1, -1).flatten())

    def project(self, memory_BSC: Tensor, pad_BS: Tensor | None) -> Tensor:
        """Values (B, S, H, D) of a memory, zero at padding: once per layer, however many queries attend."""
        value = self.value_proj(memory_BSC)
        if pad_BS is not None:
            # a product is several times faster than a masked fill on a CPU
            value = value.mul_((~pad_BS)[..., None].to(value.dtype))
        return value.unflatten(-1, (self.num_heads, -1))

    def forward(
        self,
        x_BTC: Tensor,
        pos_BTC: Tensor | None,
        center_BTL2: Tensor,
        unit_BTL2: Tensor,
        value_BSHD: Tensor,
        shapes: Shapes,
    ) -> Tensor:
        """Queries plus what they sampled, (B, T, C).

        Args:
            x_BTC: queries.
            pos_BTC: their positions, added before offsets and weights are predicted; or None.
            center_BTL2: reference point on each level's map, (x, y) in [0, 1].
            unit_BTL2: what one unit of offset is, in the same coordinates; both may have 1 for a broadcast T or L.
            value_BSHD: from :meth:`project`.
            shapes: (height, width) of each level.
        """
        at, weight = self.points(x_BTC, pos_BTC, center_BTL2, unit_BTL2)
        out = self.output_proj(ms_deform_attn(value_BSHD, shapes, at, weight))
        return x_BTC + self.dropout(out)

    def points(
        self, x_BTC: Tensor, pos_BTC: Tensor | None, center_BTL2: Tensor, unit_BTL2: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Where queries sample, (B, T, H, L, K, 2), and their weights (B, T, H, L, K); arguments as in `forward`."""
        q = x_BTC if pos_BTC is None else x_BTC + pos_BTC
        heads, points = self.num_heads, (self.num_levels, self.num_points)
        offset = self.sampling_offsets(q).unflatten(-1, (heads, -1)).to(center_BTL2.dtype)
        weight = self.attention_weights(q).unflatten(-1, (heads, -1)).softmax(-1).unflatten(-1, points)
        at = torch.addcmul(self._per_point(center_BTL2), offset, self._per_point(unit_BTL2)).unflatten(-1, (*points, 2))
        return at, weight

    def _per_point(self, x_BTL2: Tensor) -> Tensor:
        """(B, T, 1, 2LK): written out for every point, for an inner loop over 2 numbers takes many times longer."""
        x = x_BTL2.expand(-1, -1, self.num_levels, -1)[:, :, None, :, None]
        return x.expand(-1, -1, -1, -1, self.num_points, -1).flatten(3)


def level_cells(shapes: Shapes, like: Tensor) -> Tensor:
    """(1, 1, L, 2) size of one cell of each level as a fraction of its map, (x, y)."""
    return placed([[1 / w, 1 / h] for h, w in shapes], like)[None, None]
