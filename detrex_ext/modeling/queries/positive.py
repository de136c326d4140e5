"""Queries of places that are known to show an object (Co-DETR, arXiv 2211.12860, section 3.3).

Shape legend: B images, S places, Q chosen ones, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrex_ext.layers.box_ops import inverse_sigmoid
from detrex_ext.layers.cpu.common import eager
from detrex_ext.layers.position import sine_boxes
from detrex_ext.structures import Given
from detrex_ext.structures.placing import moved

LEAST = 9  # queries, of which those without an object are background
EPS = 1e-5  # how near to 0 and 1 boxes are coded


class PositiveQueries(nn.Module):
    """Content, and for hosts whose queries have one a position, of boxes and what the maps show there.

    Keys: ``code.*``, and ``features.*``, ``place`` (C,) where there are such.

    Args:
        dim: C.
        positioned: queries of the host carry a position.
        features: content has features of the maps, too.
    """

    def __init__(self, dim: int, positioned: bool, features: bool = True) -> None:
        super().__init__()
        self.dim = dim
        self.code = self._projection(2 * dim, 2 * dim if positioned else dim)
        self.features = self._projection(dim, dim) if features else None
        self.place = nn.Parameter(torch.zeros(dim)) if positioned else None

    @staticmethod
    def _projection(channels: int, out: int) -> nn.Sequential:
        linear = nn.Linear(channels, out)
        nn.init.xavier_uniform_(linear.weight)
        return nn.Sequential(linear, nn.LayerNorm(out))

    def forward(self, boxes_BQ4: Tensor, features_BQC: Tensor) -> tuple[Tensor, Tensor | None]:
        """Content and position, each (B, Q, C), of normalized cxcywh boxes; no position where the host has none."""
        inside_BQ4 = inverse_sigmoid(boxes_BQ4, EPS).sigmoid()
        content, position = self.code(sine_boxes(inside_BQ4, self.dim // 2, order=(0, 1, 2, 3))), None
        if self.place is not None:
            position, content = content.chunk(2, -1)
            position = position + self.place
        return content if self.features is None else content + self.features(features_BQC), position


def looked_at(x: Tensor) -> bool:
    """Whether a value (of any shape) may be looked at: nothing has to be waited for, and it has one."""
    return x.device.type == "cpu" and eager() and type(x) is Tensor


def choose(given: Given, number: int, most: int) -> tuple[Tensor, Tensor]:
    """Places that become queries: those of objects, and others up to as many as the image of most has, 9 at least.

    Which, where there are too many, is drawn from torch's generator on the CPU, whose state is in checkpoints.

    Args:
        given: what is known of all places, with their candidate objects.
        number: of queries at most.
        most: places of objects that an image has at most.

    Returns:
        (B, Q) int64 places, and (B, Q) bool, False for what only fills up: where no value may be looked at, Q is what
        ``most`` allows.
    """
    gt_BS, valid_BS = given.prior.candidate_gt_BQ, given.valid_BQ
    drawn_BS = moved(torch.rand(gt_BS.shape, dtype=torch.float32), gt_BS.device)
    # those of objects before others, what is no place of the image last
    key_BS = (drawn_BS + (gt_BS >= 0)).masked_fill(~valid_BS, -1.0)
    wanted = (gt_BS >= 0).sum(1).amax().clamp(min(LEAST, number), number)
    Q = int(wanted) if looked_at(wanted) else min(number, max(LEAST, most))
    key_BQ, index_BQ = key_BS.topk(min(Q, gt_BS.shape[1]), 1)
    rank_Q = torch.arange(index_BQ.shape[1], device=gt_BS.device)
    return index_BQ, (key_BQ >= 0) & (rank_Q < wanted)
