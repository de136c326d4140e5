"""Boxes as points of scale space (AdaMixer, arXiv 2203.16507, section 3.1): center x, y, scale z, aspect r.

z = log2 sqrt(w h) and r = log2(h / w), so that w = 2^(z - r/2) and h = 2^(z + r/2) are always positive.
"""

from __future__ import annotations

import torch
from torch import Tensor


def boxes_to_xyzr(boxes: Tensor) -> Tensor:
    """(..., 4) cxcywh, usually in pixels, to (x, y, z, r)."""
    log_w, log_h = boxes[..., 2:].log2().unbind(-1)
    return torch.stack([boxes[..., 0], boxes[..., 1], (log_w + log_h) / 2, log_h - log_w], -1)


def xyzr_to_boxes(xyzr: Tensor) -> Tensor:
    """(..., 4) (x, y, z, r) to cxcywh."""
    x, y, z, r = xyzr.unbind(-1)
    return torch.stack([x, y, (z - r / 2).exp2(), (z + r / 2).exp2()], -1)


def refine_xyzr(xyzr: Tensor, delta: Tensor) -> Tensor:
    """A box moved by (..., 4) deltas: the center in units of 2^z whatever the aspect, z and r by addition."""
    center = xyzr[..., :2] + delta[..., :2] * xyzr[..., 2:3].exp2()
    return torch.cat([center, xyzr[..., 2:] + delta[..., 2:]], -1)
