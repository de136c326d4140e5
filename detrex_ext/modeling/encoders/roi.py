"""Regions of interest: proposals of a network of their own, encoded as a set (TSP-RCNN, arXiv 2011.10881).

Shape legend: B images, N regions (tokens) of an image, V regions of all images, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detrex_ext.layers.box_ops import box_xyxy_to_cxcywh
from detrex_ext.layers.cpu.common import eager
from detrex_ext.layers.position import sine_boxes
from detrex_ext.layers.roi_pool import pooled, pooled_in_graph
from detrex_ext.layers.set_encoder import SetEncoder
from detrex_ext.structures import Features, Memory, Prior, SupervisedSet, Targets

from .roi_sampler import RoISampler
from .rpn import RPN


class RoIEncoder(nn.Module):
    """A proposal network, the features of its proposals, and a transformer over them.

    The memory is these regions. Where an image has fewer than another, or none, slots are padding. In training a sample
    of them is taken, whose candidates are objects of an IoU from ``iou`` on, and a sample of anchors is supervised, as
    a set of group ``token``. Keys: ``rpn.*``, ``enc_proj.*``, ``pos_proj.*``, ``enc_proj_norm.*``, ``encoder.*``.

    Args:
        rpn: the proposal network; its levels are the last ones.
        channels: of the maps.
        dim, num_heads, ffn_dim, dropout, num_layers, attention, checkpoint: of the :class:`SetEncoder`.
        strides: pixels per cell of each level.
        pooled_levels: as many of the first levels give the features of regions.
        pool_size: cells of each side of these features.
        num_fc: linear layers from features to tokens; the published size of the model is that of 2, its script has 1.
        fc_dim: width between them.
        coordinates: of a region's position code: 8, center, size and corners (the code), or 4, center and size (the
            paper).
        num_samples: regions that are taken in training.
        positive_share: how much of them may be regions of objects.
        token_keep: in training a random share of these stays, from the least to the greatest, drawn for each image; one
            number: always that. The code of TSP keeps 0.7 to 1, its paper 0.3.
        iou: least IoU of a region with an object that it may answer for.
        add_objects: in training, where no proposal of an image has that, its objects are added, moved a little.

    Raises:
        ValueError: other than 4 or 8 coordinates, or a width that is no multiple of twice their number; no layer.
    """

    def __init__(
        self,
        rpn: RPN,
        channels: int = 256,
        dim: int = 512,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        dropout: float = 0.1,
        num_layers: int = 6,
        strides: Sequence[int] = (4, 8, 16, 32, 64, 128),
        pooled_levels: int = 4,
        pool_size: int = 7,
        num_fc: int = 1,
        fc_dim: int = 1024,
        coordinates: int = 8,
        num_samples: int = 700,
        positive_share: float = 0.25,
        token_keep: float | Sequence[float] = (0.7, 1.0),
        iou: float = 0.5,
        add_objects: bool = True,
        attention: str = "sdpa",
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if coordinates not in (4, 8) or dim % (2 * coordinates):
            raise ValueError(f"coordinates must be 4 or 8, and dim a multiple of twice that; got {coordinates}, {dim}")
        if num_fc < 1:
            raise ValueError(f"num_fc must be at least 1, got {num_fc}")
        self.dim, self.strides, self.num_levels = dim, tuple(strides), len(strides)
        self.pooled_levels, self.pool_size, self.coordinates = pooled_levels, pool_size, coordinates
        self.rpn, self.sampler = rpn, RoISampler(num_samples, positive_share, token_keep, iou, add_objects)
        self.enc_proj = _projection(channels * pool_size**2, fc_dim, dim, num_fc)
        self.pos_proj, self.enc_proj_norm = nn.Linear(dim, dim), nn.LayerNorm(dim)
        self.encoder = SetEncoder(dim, num_heads, ffn_dim, dropout, num_layers, attention, checkpoint)
        for part in (self.enc_proj, self.pos_proj, self.encoder):
            for p in part.parameters():
                if p.dim() > 1:
                    nn.init.xavier_uniform_(p)

    def forward(self, features: Features, targets: Targets | None = None) -> tuple[Memory, list[SupervisedSet]]:
        """The encoded regions (B, N, C), best first, and in training the sampled anchors.

        Raises:
            ValueError: maps of another number of levels than there are strides.
        """
        maps, image_hw_B2 = features.maps, features.image_hw_B2
        if len(maps) != self.num_levels:
            raise ValueError(f"{len(maps)} maps, but strides for {self.num_levels}: {list(self.strides)}")
        targets = targets if self.training else None
        boxes, valid_BN, sets = self.rpn(maps[-len(self.rpn.strides) :], image_hw_B2, targets)
        gt_BN = torch.full_like(valid_BN, -1, dtype=torch.int64)
        if targets is not None:
            boxes, valid_BN, gt_BN = self.sampler(boxes, valid_BN, image_hw_B2, targets)
        normalized = boxes / image_hw_B2.to(boxes.dtype).flip(1).repeat(1, 2)[:, None]
        ref_BN4 = box_xyxy_to_cxcywh(normalized)
        places, order = torch.cat([ref_BN4, normalized], -1), tuple(range(self.coordinates))
        code = sine_boxes(places, self.dim // self.coordinates, order=order)
        tokens = self.enc_proj_norm(self._features(maps, boxes, valid_BN) + self.pos_proj(code))
        mem = Memory(
            self.encoder(tokens, code, ~valid_BN),
            code,
            ~valid_BN,
            ((1, boxes.shape[1]),),
            (1,),
            image_hw_B2.new_ones(boxes.shape[0], 1, 2),
            image_hw_B2,
            Prior(ref_BN4, candidate_gt_BQ=gt_BN),
        )
        return mem, sets

    def _features(self, maps: Sequence[Tensor], boxes: Tensor, valid_BN: Tensor) -> Tensor:
        """(B, N, C) of what the maps show at each region; zeros where there is none, which nothing is computed for."""
        B, N = valid_BN.shape
        levels, strides = (x[: self.pooled_levels] for x in (maps, self.strides))
        if not eager():
            image_V = torch.arange(B, device=boxes.device)[:, None].expand(B, N).flatten()
            every = pooled_in_graph(levels, strides, boxes.flatten(0, 1), image_V, self.pool_size)
            return self.enc_proj(every.flatten(1)).view(B, N, -1) * valid_BN[..., None]
        row_V = valid_BN.flatten().nonzero()[:, 0]
        found, of_V = pooled(levels, strides, boxes.flatten(0, 1)[row_V], row_V // N, self.pool_size)
        tokens_VC = self.enc_proj(found.flatten(1))
        return tokens_VC.new_zeros(B * N, self.dim).index_copy(0, row_V[of_V], tokens_VC).view(B, N, -1)


def _projection(channels: int, hidden: int, out: int, num_fc: int) -> nn.Module:
    widths = [channels, *[hidden] * (num_fc - 1), out]
    layers = [nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False)]
    if num_fc == 1:
        return layers[0]
    return nn.Sequential(layers[0], *(part for layer in layers[1:] for part in (nn.ReLU(inplace=True), layer)))
