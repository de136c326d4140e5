"""Heads over a set of tokens, as a decoder of one stage without attention (TSP, arXiv 2011.10881).

Shape legend: B images, T tokens, L levels, C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detrex_ext.layers.box_ops import inverse_sigmoid
from detrex_ext.layers.mlp import MLP
from detrex_ext.structures import Memory, Queries
from detrex_ext.structures.placing import placed

from ..sizes import require_classes
from .deformable import reset_head
from .staged import OUTPUT, StagedDecoder


class SetHead(StagedDecoder):
    """Base of hosts whose tokens met in the encoder: a stage is its ``predict``, all else leaves tokens as they are."""

    boxes_in_image = False

    def __init__(self) -> None:
        super().__init__(1)

    def project(self, layer: int, mem: Memory) -> None:
        """Nothing: tokens do not look at the memory, they are it."""
        return

    def condition(self, layer: int, q: Queries, mem: Memory) -> Queries:
        """See :meth:`StagedDecoder.condition`."""
        return q

    def self_attend(self, layer: int, x: Queries) -> Queries:
        """See :meth:`StagedDecoder.self_attend`."""
        return x

    def cross_attend(self, layer: int, x: Queries, kv: None, mem: Memory) -> Queries:
        """See :meth:`StagedDecoder.cross_attend`."""
        return x


class TokenHead(SetHead):
    """Heads on every token of a dense encoder: encoder-only DETR (TSP, arXiv 2011.10881, section 3.3).

    A linear layer for K + 1 classes, the last "no object", and an MLP for boxes, as DETR's; centers are relative
    to the token's own, before the sigmoid, and sizes are not. Keys: ``class_embed.*``, ``bbox_embed.*``.

    Args:
        num_classes: K.
        dim: C.
    """

    softmax, boxes_in_image = True, True

    def __init__(self, num_classes: int, dim: int = 256) -> None:
        require_classes(num_classes)
        super().__init__()
        self.dim = dim
        self.class_embed, self.bbox_embed = nn.Linear(dim, num_classes + 1), MLP(dim, dim, 4, 3)

    def predict(self, layer: int, x: Queries, mem: Memory) -> tuple[Tensor, Tensor, Queries]:
        """See :meth:`StagedDecoder.predict`; references stay."""
        moves_BT4 = self.bbox_embed(x.content_BTC).to(x.ref_BT4.dtype)
        center = inverse_sigmoid(x.ref_BT4[..., :2]) + moves_BT4[..., :2]
        return self.class_embed(x.content_BTC), torch.cat([center, moves_BT4[..., 2:]], -1).sigmoid(), x


class FCOSHead(SetHead):
    """A linear head each for classes, distances to the four sides, and centerness (TSP-FCOS, section 4.2).

    The distances, in strides, are ReLU(x W + b) times a learned factor of the level. Sets have the outputs ``ltrb``
    (B, T, 4), these distances, and ``centerness`` (B, T), logits that only the loss looks at. References are boxes of
    the stride's size around points. Keys: ``class_embed.*``, ``bbox_embed.*``, ``centerness.*``, ``scales`` (L,).

    Args:
        num_classes: K.
        dim: C.
        strides: pixels per cell of each level.
    """

    def __init__(self, num_classes: int, dim: int = 512, strides: Sequence[int] = (8, 16, 32, 64, 128)) -> None:
        require_classes(num_classes)
        super().__init__()
        self.dim, self.strides, self.num_levels = dim, tuple(strides), len(strides)
        self.class_embed, self.bbox_embed = nn.Linear(dim, num_classes), nn.Linear(dim, 4)
        self.centerness = nn.Linear(dim, 1)
        self.scales = nn.Parameter(torch.ones(self.num_levels))
        for head in (self.class_embed, self.centerness):
            nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)
        reset_head(self.class_embed)

    def predict(self, layer: int, x: Queries, mem: Memory) -> tuple[Tensor, Tensor, Queries]:
        """See :meth:`StagedDecoder.predict`; references stay."""
        ref, stride_BT = x.ref_BT4, x.extra["stride"]
        level_BTL = stride_BT[..., None] == placed([float(s) for s in self.strides], stride_BT)
        scale_BT = (level_BTL.to(ref.dtype) * self.scales).sum(-1)
        ltrb_BT4 = self.bbox_embed(x.content_BTC).relu().to(ref.dtype) * scale_BT[..., None]
        near, far = ltrb_BT4.chunk(2, -1)
        boxes = torch.cat([ref[..., :2] + (far - near) / 2 * ref[..., 2:], (near + far) * ref[..., 2:]], -1)
        outputs = {"ltrb": ltrb_BT4, "centerness": self.centerness(x.content_BTC)[..., 0]}
        extra = {**x.extra, **{OUTPUT + name: value for name, value in outputs.items()}}
        return self.class_embed(x.content_BTC), boxes, x.replace(extra=extra)
