"""A dense head over the maps of a pyramid, for training (ATSS, arXiv 1912.02424; as Co-DETR has it, arXiv 2211.12860).

Shape legend: B images, L levels, S anchors of all levels, one of each cell, C channels, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder

from detrex_ext.layers.atss_targets import atss_targets
from detrex_ext.layers.box_ops import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh
from detrex_ext.structures import Features, Given, Prior, SupervisedSet, Targets

from ..decoders.deformable import reset_head
from .flatten import flatten_levels
from .points import Points
from .towers import tower

_CODER = BoxCoder((10.0, 10.0, 5.0, 5.0))
_NORMAL = 0.01  # deviation of the first weights


def norm_groups(dim: int) -> int:
    """Groups of a norm over C channels: 32, or as many as have two each: one channel of one cell has no variance."""
    return math.gcd(32, max(dim // 2, 1))


class ATSSHead(nn.Module):
    """Two towers that all levels share, and for the anchor of each cell its classes, box and centerness.

    Keys: ``class_tower.*``, ``box_tower.*``, ``class_embed.*``, ``deltas.*``, ``centerness.*``, ``scales`` (L,).

    Args:
        num_classes: K.
        dim: C.
        strides: pixels per cell of each level.
        num_convs: of each tower.
        k: candidates of an object on each level.
        anchor_size: sides of an anchor in strides.
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        strides: Sequence[int],
        num_convs: int = 1,
        k: int = 9,
        anchor_size: float = 8.0,
    ) -> None:
        super().__init__()
        self.strides, self.k, self.anchor_size = tuple(strides), k, anchor_size
        self.class_tower, self.box_tower = (tower(dim, num_convs, groups=norm_groups(dim)) for _ in range(2))
        self.class_embed = nn.Conv2d(dim, num_classes, 3, 1, 1)
        self.deltas, self.centerness = (nn.Conv2d(dim, out, 3, 1, 1) for out in (4, 1))
        self.scales = nn.Parameter(torch.ones(len(self.strides)))
        for head in (self.class_embed, self.deltas, self.centerness):
            nn.init.normal_(head.weight, std=_NORMAL)
            nn.init.zeros_(head.bias)
        reset_head(self.class_embed)

    def most(self, objects: int) -> int:
        """How many anchors may answer for so many objects."""
        return self.k * len(self.strides) * objects

    def forward(
        self, maps: Sequence[Tensor], image_hw_B2: Tensor, targets: Targets, group: str
    ) -> tuple[list[SupervisedSet], Tensor]:
        """What is supervised, (B, S), and the features (B, S, C) of each anchor's cell.

        The set knows its anchors, their centers and strides, and the objects that they answer for; ``centerness`` is an
        output of it.

        Args:
            maps: per level (B, C, H, W).
            image_hw_B2: valid size of each image.
            targets: objects.
            group: of the set.
        """
        dtype = torch.promote_types(maps[0].dtype, torch.float32)
        given, anchors_BS4 = self._places(maps, image_hw_B2.to(dtype), targets)
        logits, deltas, centerness = [], [], []
        for m, scale in zip(maps, self.scales, strict=True):
            of_box = self.box_tower(m)
            logits.append(self.class_embed(self.class_tower(m)))
            deltas.append(self.deltas(of_box) * scale)
            centerness.append(self.centerness(of_box))
        flat = [flatten_levels([m.permute(0, 2, 3, 1) for m in x]) for x in (logits, deltas, centerness, maps)]
        moves_BS4 = flat[1].to(dtype)
        boxes = _CODER.decode_single(moves_BS4.flatten(0, 1), anchors_BS4.flatten(0, 1)).view_as(moves_BS4)
        outputs = {"centerness": flat[2][..., 0]}
        found = SupervisedSet(flat[0], box_xyxy_to_cxcywh(boxes), -1, group, "head", given, outputs=outputs)
        return [found], flat[3]

    def _places(
        self, maps: Sequence[Tensor], image_hw_B2: Tensor, targets: Targets
    ) -> tuple[Given, Tensor]:
        """What is known of the anchors before anything is predicted, and the anchors (B, S, 4), normalized xyxy."""
        points = Points.of(Features(list(maps), [], self.strides, image_hw_B2), self.strides)
        size_B12, valid_BS = image_hw_B2.flip(1)[:, None], ~points.pad_BP
        # anchors lie around the upper left corners of cells, as those of mmdetection
        center_S2 = (points.cells_P2 * points.strides_P[:, None]).to(image_hw_B2.dtype)
        half_S2 = (points.strides_P[:, None] * (self.anchor_size / 2)).to(center_S2.dtype)
        anchors_S4 = torch.cat([center_S2 - half_S2, center_S2 + half_S2], -1)
        boxes_G4 = box_cxcywh_to_xyxy(targets.boxes_G4.to(anchors_S4.dtype))
        boxes_G4 = boxes_G4 * size_B12[:, 0].repeat(1, 2)[targets.image_G]
        sizes = [m.shape[2] * m.shape[3] for m in maps]
        gt_BS = atss_targets(anchors_S4, sizes, boxes_G4, targets.image_G, valid_BS, self.k)
        anchors_BS4 = anchors_S4 / size_B12.repeat(1, 1, 2)
        strides_BS = points.strides_P.expand(len(valid_BS), -1)
        prior = Prior(box_xyxy_to_cxcywh(anchors_BS4), center_S2 / size_B12, strides_BS, gt_BS)
        return Given(prior=prior, valid_BQ=valid_BS), anchors_BS4
