"""Negative entropy of attention, without its map in memory.

Shape legend: B images, H heads, L queries, M keys, D channels of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 1 << 20  # logits at a time


@torch.no_grad()
def negative_entropy(
    q_BHLD: Tensor, k_BHMD: Tensor, mask: Tensor | None = None, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """Sum over keys of p log p of each query's attention, and the number of keys it may attend to.

    In double precision, some queries at a time: with logits z the sum is that of p z, minus log sum exp z.

    Args:
        q_BHLD: queries.
        k_BHMD: keys.
        mask: as in :func:`~detrex_ext.layers.attention.attention`; keys that it leaves out do not count.
        chunk: logits that are in memory at a time, and those of one query at least.

    Returns:
        (B, H, L) double, 0 or less, NaN where there is no key; and (B, H, L) int64.
    """
    B, H, L, D = q_BHLD.shape
    M, k_BHDM = k_BHMD.shape[2], k_BHMD.double().transpose(-1, -2)
    mask = None if mask is None else mask.expand(B, H, L, M)
    step, found, counts = max(1, chunk // max(B * H * M, 1)), [], []
    for start in range(0, L, step):
        logits = (q_BHLD[:, :, start : start + step].double() * D**-0.5) @ k_BHDM
        if mask is not None:
            part = mask[:, :, start : start + step]
            logits = logits.masked_fill(~part, -torch.inf) if part.dtype == torch.bool else logits + part
        there = logits > -torch.inf
        lse = logits.logsumexp(-1)
        weighted = ((logits - lse[..., None]).exp() * logits.where(there, 0.0)).sum(-1)
        found.append((weighted - lse).clamp(max=0.0).where(there.any(-1), torch.nan))
        counts.append(there.sum(-1))
    return torch.cat(found, 2), torch.cat(counts, 2)
