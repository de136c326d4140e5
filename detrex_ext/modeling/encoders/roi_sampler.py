"""Which proposals are trained on, and what they may answer for (TSP-RCNN, arXiv 2011.10881).

Shape legend: B images, R proposals, M objects that are added, N regions that are taken, G objects of the batch (flat).
Boxes are xyxy in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detrex_ext.layers.anchor_targets import jittered
from detrex_ext.layers.box_ops import box_cxcywh_to_xyxy
from detrex_ext.layers.cpu.common import eager
from detrex_ext.layers.roi_targets import roi_targets
from detrex_ext.layers.subsets import balanced_subset, kept_shares, marked_first, random_subset
from detrex_ext.structures import Targets
from detrex_ext.structures.placing import moved
from detrex_ext.structures.supervision import tokens_at


class RoISampler:
    """A random sample of the proposals of each image. Its numbers are of torch's generator on the CPU.

    Args:
        num_samples, positive_share, token_keep, iou, add_objects: see :class:`RoIEncoder`.
    """

    def __init__(
        self,
        num_samples: int = 700,
        positive_share: float = 0.25,
        token_keep: float | Sequence[float] = (0.7, 1.0),
        iou: float = 0.5,
        add_objects: bool = True,
    ) -> None:
        self.num_samples, self.positive_share, self.token_keep = num_samples, positive_share, kept_shares(token_keep)
        self.iou, self.add_objects = iou, add_objects

    @torch.no_grad()
    def __call__(
        self, boxes: Tensor, valid_BR: Tensor, image_hw_B2: Tensor, targets: Targets
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A sample of the proposals.

        The result are regions (B, N, 4) in the order of the proposals; which of them are no padding (B, N); and flat
        objects that they may answer for (B, N), -1 for none.

        Args:
            boxes: proposals (B, R, 4).
            valid_BR: False for padding.
            image_hw_B2: valid size of each image.
            targets: objects.
        """
        size_B4 = image_hw_B2.to(boxes.dtype).flip(1).repeat(1, 2)
        objects_G4 = box_cxcywh_to_xyxy(targets.boxes_G4.to(boxes.dtype)) * size_B4[targets.image_G]
        gt_BR = roi_targets(boxes, objects_G4, targets.image_G, self.iou, valid_BR)
        if self.add_objects and targets.num:
            more, valid_BM = self._objects(objects_G4, targets, (gt_BR < 0).all(1))
            gt_BM = roi_targets(more, objects_G4, targets.image_G, self.iou, valid_BM)
            boxes, valid_BR, gt_BR = (
                torch.cat(pair, 1) for pair in ((boxes, more), (valid_BR, valid_BM), (gt_BR, gt_BM))
            )
        taken_BR = self.kept(self.sample(gt_BR >= 0, valid_BR & (gt_BR < 0)))
        # as many slots as the fullest image needs; a graph has them for the fullest that there can be
        slots = max(1, int(taken_BR.sum(1).max())) if eager() else min(self.num_samples, taken_BR.shape[1])
        index_BN = marked_first(taken_BR, slots)
        valid_BN = taken_BR.gather(1, index_BN)
        boxes = tokens_at(boxes, index_BN).where(valid_BN[..., None], 0.0)
        return boxes, valid_BN, gt_BR.gather(1, index_BN).where(valid_BN, -1)

    def sample(self, positive_BR: Tensor, negative_BR: Tensor) -> Tensor:
        """(B, R) bool, proposals that are taken, before some of them are dropped."""
        return balanced_subset(positive_BR, negative_BR, self.num_samples, self.positive_share)

    def kept(self, taken_BR: Tensor) -> Tensor:
        """(B, R) bool, a random share of what is taken of each image, the share being random too."""
        least, most = self.token_keep
        if least == 1:
            return taken_BR
        share_B = moved(most - torch.rand(len(taken_BR), dtype=torch.float64) * (most - least), taken_BR.device)
        return random_subset(taken_BR, self.num_samples, (taken_BR.sum(1) * share_B).long().clamp(min=1))

    def _objects(self, objects_G4: Tensor, targets: Targets, wanted_B: Tensor) -> tuple[Tensor, Tensor]:
        """Objects (B, M, 4) moved a little, and which are no padding, or of images that want none (B, M)."""
        random_G4 = moved(torch.rand(objects_G4.shape, dtype=torch.float32), objects_G4.device)
        image_G = targets.image_G
        place_G = torch.arange(len(image_G), device=image_G.device) - targets.offsets_B[image_G]
        more = objects_G4.new_zeros(len(wanted_B), max(targets.counts), 4)
        valid_BM = torch.zeros_like(more[..., 0], dtype=torch.bool)
        at = image_G, place_G
        return more.index_put(at, jittered(objects_G4, random_G4)), valid_BM.index_put(at, wanted_B[image_G])
