"""Faster R-CNN's two stages on the maps of a pyramid, for training (arXiv 1506.01497; as Co-DETR has it, 2211.12860).

Shape legend: B images, N regions that are taken, V those of all images, C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder

from detrex_ext.layers.box_ops import box_xyxy_to_cxcywh
from detrex_ext.layers.roi_pool import pooled
from detrex_ext.structures import Given, Prior, SupervisedSet, Targets

from .roi_sampler import RoISampler
from .rpn import RPN

_CODER = BoxCoder((10.0, 10.0, 5.0, 5.0))
_SIZES = [4 * 2 ** (i / 3) for i in range(3)]  # sides of anchors, in strides


class RoIHead(nn.Module):
    """A proposal network, and two linear layers over what the maps show of a sample of its proposals.

    Objects are proposals too. Keys: ``rpn.*``, ``fcs.*``, ``class_embed.*``, ``bbox_embed.*``.

    Args:
        num_classes: K.
        dim: C.
        strides: pixels per cell of each level; regions are read from all but the last.
        num_proposals: of an image at most.
        num_samples: of these, regions that are taken.
        positive_share: of these, how many may be of objects.
        pool_size: cells of each side of a region's features.
        fc_dim: width of the linear layers; None: four times C, which is the published 1024 for 256.
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        strides: Sequence[int],
        num_proposals: int = 1000,
        num_samples: int = 512,
        positive_share: float = 0.25,
        pool_size: int = 7,
        fc_dim: int | None = None,
    ) -> None:
        super().__init__()
        sizes = [[stride * size for size in _SIZES] for stride in strides]
        kept = {"num_proposals": num_proposals, "num_candidates": (4000, num_proposals)}
        self.rpn = RPN(dim, strides, sizes, num_convs=1, norm=None, **kept)
        self.sampler = RoISampler(num_samples, positive_share, token_keep=1.0, exact=True)
        self.pool_size, self.limit = pool_size, int(num_samples * positive_share)
        fc_dim = fc_dim or 4 * dim
        widths = (dim * pool_size**2, fc_dim, fc_dim)
        layers = [nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False)]
        self.fcs = nn.Sequential(layers[0], nn.ReLU(inplace=True), layers[1], nn.ReLU(inplace=True))
        self.class_embed, self.bbox_embed = nn.Linear(fc_dim, num_classes + 1), nn.Linear(fc_dim, 4 * num_classes)
        for layer in layers:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        for head, std in ((self.class_embed, 0.01), (self.bbox_embed, 0.001)):
            nn.init.normal_(head.weight, std=std)
            nn.init.zeros_(head.bias)

    def most(self, objects: int) -> int:
        """How many regions may answer for so many objects."""
        return self.limit if objects else 0

    def forward(
        self, maps: Sequence[Tensor], image_hw_B2: Tensor, targets: Targets, group: str
    ) -> tuple[list[SupervisedSet], Tensor]:
        """Sampled anchors (path ``proposals``) and regions, which are supervised, and the mean features of these.

        Args:
            maps: per level (B, C, H, W).
            image_hw_B2: valid size of each image.
            targets: objects.
            group: of the sets.
        """
        boxes, valid_BR, (anchors,) = self.rpn(maps, image_hw_B2, targets)
        boxes, valid_BN, gt_BN = self.sampler(boxes, valid_BR, image_hw_B2, targets)
        B, N = valid_BN.shape
        row_V = valid_BN.flatten().nonzero()[:, 0]
        levels = maps[:-1], self.rpn.strides[:-1]
        found, of_V = pooled(*levels, boxes.flatten(0, 1)[row_V], row_V // N, self.pool_size)
        row_V, tokens_VC = row_V[of_V], self.fcs(found.flatten(1))

        def spread(x_VC: Tensor) -> Tensor:
            return x_VC.new_zeros(B * N, x_VC.shape[1]).index_copy(0, row_V, x_VC).view(B, N, -1)

        regions_BN4 = boxes / image_hw_B2.to(boxes.dtype).flip(1).repeat(1, 2)[:, None]
        logits, deltas = spread(self.class_embed(tokens_VC)), spread(self.bbox_embed(tokens_VC)).to(boxes.dtype)
        moved = _CODER.decode_single(deltas.flatten(0, 1), regions_BN4.flatten(0, 1)).view(B, N, -1, 4)
        best_BN11 = logits[..., :-1].argmax(-1)[..., None, None]
        best_BN4 = moved.gather(2, best_BN11.expand(-1, -1, 1, 4))[:, :, 0]
        given = Given(prior=Prior(box_xyxy_to_cxcywh(regions_BN4), candidate_gt_BQ=gt_BN), valid_BQ=valid_BN)
        tags, outputs = (-1, group, "head", given), {"class_boxes": moved}
        of_regions = SupervisedSet(logits, box_xyxy_to_cxcywh(best_BN4), *tags, softmax=True, outputs=outputs)
        return [replace(anchors, group=group, path="proposals"), of_regions], spread(found.mean((2, 3)))
