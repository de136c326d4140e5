"""Region proposals from a feature pyramid (Faster R-CNN, arXiv 1506.01497), with a tower for each of its two answers.

Shape legend: B images, L levels, A anchors of all levels, K anchors of a cell, M best anchors of each level, R
proposals of an image, N anchors that are supervised, C channels, H, W cells of a level. Boxes are xyxy in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import batched_nms

from detrex_ext.layers.anchor_targets import anchor_targets
from detrex_ext.layers.box_ops import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh
from detrex_ext.layers.cpu.common import eager
from detrex_ext.layers.subsets import balanced_subset, marked_first
from detrex_ext.layers.suppression import best_in_graph
from detrex_ext.structures import Given, Prior, SupervisedSet, Targets
from detrex_ext.structures.placing import moved
from detrex_ext.structures.supervision import tokens_at

from ..backbones.blocks import Norm, make_norm

# of TSP-RCNN's script
SIZES = (
    (32.0, 40.32, 51.8),
    (64.0, 80.63, 101.59),
    (128.0, 161.27, 203.19),
    (256.0, 322.54, 406.37),
    (512.0, 645.08, 812.75),
)
_CODER = BoxCoder((1.0, 1.0, 1.0, 1.0))


class RPN(nn.Module):
    """Anchors at every cell, what they move to, and the best of that as proposals.

    Keys: ``{class,box}_tower.{i}``, convolutions that all levels share; ``{class,box}_norms.{level}.{i}``, norms that
    each level has for itself; ``objectness.*`` and ``deltas.*``.

    Args:
        channels: of the maps.
        strides: pixels per cell of each level.
        sizes: for each level the sides, in pixels, of square anchors of the same area.
        ratios: height by width.
        num_convs: of each tower.
        norm: of the towers; as in ``ConvNorm``.
        num_proposals: R, at most.
        num_candidates: M, in training and at inference.
        nms: of two proposals of a level with a higher IoU the worse is dropped.
        num_samples: anchors of an image that are supervised.
        positive_share: of these at most.
        iou: below the first an anchor is background, from the second on it answers for an object.

    Raises:
        ValueError: sizes for another number of levels than strides, or of different numbers.
    """

    def __init__(
        self,
        channels: int = 256,
        strides: Sequence[int] = (8, 16, 32, 64, 128),
        sizes: Sequence[Sequence[float]] = SIZES,
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
        num_convs: int = 2,
        norm: Norm = "SyncBN",
        num_proposals: int = 700,
        num_candidates: Sequence[int] = (2000, 1000),
        nms: float = 0.7,
        num_samples: int = 256,
        positive_share: float = 0.5,
        iou: Sequence[float] = (0.3, 0.7),
    ) -> None:
        super().__init__()
        if len(sizes) != len(strides) or len({len(of_level) for of_level in sizes}) != 1:
            raise ValueError(f"sizes must be as many for each of {len(strides)} strides; got {[*map(list, sizes)]}")
        self.strides, self.num_proposals, self.num_candidates = tuple(strides), num_proposals, tuple(num_candidates)
        self.nms, self.num_samples, self.positive_share, self.iou = nms, num_samples, positive_share, tuple(iou)
        for name in ("class", "box"):
            convs = (nn.Conv2d(channels, channels, 3, 1, 1) for _ in range(num_convs))
            setattr(self, f"{name}_tower", nn.ModuleList(convs))
            norms = ([make_norm(norm, channels) or nn.Identity() for _ in range(num_convs)] for _ in strides)
            setattr(self, f"{name}_norms", nn.ModuleList(map(nn.ModuleList, norms)))
        cells = torch.stack([cell_anchors(of_level, ratios) for of_level in sizes])
        self.register_buffer("cells_LK4", cells, persistent=False)
        self.objectness = nn.Conv2d(channels, cells.shape[1], 1)
        self.deltas = nn.Conv2d(channels, 4 * cells.shape[1], 1)
        for head in (self.objectness, self.deltas):
            nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)

    def forward(
        self, maps: Sequence[Tensor], image_hw_B2: Tensor, targets: Targets | None = None
    ) -> tuple[Tensor, Tensor, list[SupervisedSet]]:
        """Proposals and what is supervised.

        The result are proposals (B, R, 4), best first and without a gradient; (B, R) bool, False for a slot of padding,
        of which there is one where no image has a proposal; and with ``targets`` the sampled anchors as a set of group
        ``token``, whose output ``deltas`` is (B, N, 1, 4).

        Args:
            maps: per level (B, C, H, W).
            image_hw_B2: valid size of each image.
            targets: in training.
        """
        logits, deltas, anchors = [], [], []
        for level, m in enumerate(maps):
            wide = torch.promote_types(m.dtype, torch.float32)
            logits.append(self._tower("class", level, m).to(wide).permute(0, 2, 3, 1).flatten(1))
            deltas.append(self._tower("box", level, m).to(wide).permute(0, 2, 3, 1).reshape(m.shape[0], -1, 4))
            anchors.append(self.anchors(level, m.shape[2], m.shape[3]))
        proposals, valid_BR = self._proposals(logits, deltas, anchors, image_hw_B2)
        if targets is None:
            return proposals, valid_BR, []
        every = torch.cat(logits, 1), torch.cat(deltas, 1), torch.cat(anchors)
        return proposals, valid_BR, [self._supervised(*every, image_hw_B2, targets)]

    def anchors(self, level: int, height: int, width: int) -> Tensor:
        """(H W K, 4) anchors of a level, around the upper left corners of its cells, row by row."""
        cells_K4, stride = self.cells_LK4[level], self.strides[level]
        y, x = (torch.arange(n, device=cells_K4.device, dtype=cells_K4.dtype) * stride for n in (height, width))
        at_HW4 = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], -1).repeat(1, 1, 2)
        return (at_HW4[:, :, None] + cells_K4).reshape(-1, 4)

    def _tower(self, name: str, level: int, x: Tensor) -> Tensor:
        for conv, norm in zip(getattr(self, f"{name}_tower"), getattr(self, f"{name}_norms")[level], strict=True):
            x = norm(conv(x)).relu()
        return (self.objectness if name == "class" else self.deltas)(x)

    @torch.no_grad()
    def _proposals(
        self, logits: list[Tensor], deltas: list[Tensor], anchors: list[Tensor], image_hw_B2: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The best of each level, moved and cut to the image; then the best of all that do not cover each other."""
        found, scores, levels = [], [], []
        for level, (logits_BA, deltas_BA4, anchors_A4) in enumerate(zip(logits, deltas, anchors, strict=True)):
            most = self.num_candidates[0 if self.training else 1]
            best_BM, index_BM = logits_BA.topk(min(most, logits_BA.shape[1]), 1)
            coded = tokens_at(deltas_BA4, index_BM).flatten(0, 1)
            found.append(_CODER.decode_single(coded, anchors_A4[index_BM.flatten()]).view(*index_BM.shape, 4))
            scores.append(best_BM)
            levels.append(torch.full_like(index_BM[0], level))
        boxes, scores_BM, level_M = torch.cat(found, 1), torch.cat(scores, 1), torch.cat(levels)
        usable_BM = boxes.isfinite().all(-1) & scores_BM.isfinite()
        limit_B14 = image_hw_B2.to(boxes.dtype).flip(1).repeat(1, 2)[:, None]
        boxes = torch.minimum(boxes.clamp(min=0), limit_B14)
        usable_BM &= (boxes[..., 2:] > boxes[..., :2]).all(-1)
        if not eager():
            return best_in_graph(boxes, scores_BM, usable_BM, level_M, self.nms, self.num_proposals)
        kept = []
        for boxes_M4, scores_M, usable_M in zip(boxes, scores_BM, usable_BM, strict=True):
            boxes_M4 = boxes_M4[usable_M]
            best = batched_nms(boxes_M4, scores_M[usable_M], level_M[usable_M], self.nms)[: self.num_proposals]
            kept.append(boxes_M4[best])
        # a slot at least: attention over none is not defined
        found = pad_sequence([boxes.new_zeros(1, 4), *kept], batch_first=True)[1:]
        count_B1 = moved(torch.tensor([[len(x)] for x in kept]), found.device)
        return found, torch.arange(found.shape[1], device=found.device) < count_B1

    def _supervised(
        self, logits_BA: Tensor, deltas_BA4: Tensor, anchors_A4: Tensor, image_hw_B2: Tensor, targets: Targets
    ) -> SupervisedSet:
        size_B4 = image_hw_B2.to(anchors_A4.dtype).flip(1).repeat(1, 2)
        objects_G4 = box_cxcywh_to_xyxy(targets.boxes_G4.to(size_B4.dtype)) * size_B4[targets.image_G]
        told = [anchor_targets(anchors_A4, own, *self.iou) for own in objects_G4.split(targets.counts)]
        starts = zip(told, targets.offsets_B, strict=True)
        gt_BA = torch.stack([gt_A.where(gt_A < 0, gt_A + start) for (gt_A, _), start in starts])
        taken_BA = self.sample(gt_BA >= 0, torch.stack([negative_A for _, negative_A in told]))
        index_BN = marked_first(taken_BA, min(self.num_samples, len(anchors_A4)))
        of_N = anchors_A4[index_BN]
        prior = Prior(box_xyxy_to_cxcywh(of_N / size_B4[:, None]), candidate_gt_BQ=gt_BA.gather(1, index_BN))
        given = Given(prior=prior, valid_BQ=taken_BA.gather(1, index_BN))
        deltas_BN4 = tokens_at(deltas_BA4, index_BN)
        boxes = _CODER.decode_single(deltas_BN4.detach().flatten(0, 1), of_N.flatten(0, 1)).view_as(deltas_BN4)
        boxes = box_xyxy_to_cxcywh(boxes / size_B4[:, None])
        outputs = {"deltas": deltas_BN4[:, :, None]}
        logits_BN1 = tokens_at(logits_BA, index_BN)[..., None]
        return SupervisedSet(logits_BN1, boxes, -1, "token", given=given, outputs=outputs)

    def sample(self, positive_BA: Tensor, negative_BA: Tensor) -> Tensor:
        """(B, A) bool, the anchors of each image that are supervised."""
        return balanced_subset(positive_BA, negative_BA, self.num_samples, self.positive_share)


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """(K, 4) anchors around (0, 0): all ratios of the first size, then those of the next."""
    widths = [((size**2 / ratio) ** 0.5, ratio) for size in sizes for ratio in ratios]
    return torch.tensor([[-w / 2, -w * ratio / 2, w / 2, w * ratio / 2] for w, ratio in widths], dtype=torch.float32)
