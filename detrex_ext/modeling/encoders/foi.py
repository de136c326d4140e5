"""Features of interest: the points that a classifier finds promising, encoded as a set (TSP-FCOS, arXiv 2011.10881).

Shape legend: B images, L levels, P points of all levels, N chosen points (tokens), C channels, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detrex_ext.layers.box_ops import box_cxcywh_to_xyxy
from detrex_ext.layers.cpu.common import eager
from detrex_ext.layers.fcos_targets import fcos_targets, level_ranges
from detrex_ext.layers.position import sine_cells
from detrex_ext.layers.set_encoder import SetEncoder
from detrex_ext.layers.subsets import kept_shares
from detrex_ext.structures import Features, Given, Memory, Prior, SupervisedSet, Targets
from detrex_ext.structures.placing import moved
from detrex_ext.structures.supervision import tokens_at

from ..decoders.deformable import reset_head
from ..sizes import require_classes
from .flatten import flatten_levels
from .points import Points
from .towers import tower


class FoIEncoder(nn.Module):
    """Two towers over a feature pyramid, the best ``num_tokens`` points of each image, and a transformer over them.

    The memory is these tokens. In training the scores of all points are supervised, as a set of group ``token`` with
    FCOS's candidates. Keys: ``class_tower.*``, ``box_tower.*``, ``class_embed.*``, ``enc_proj.*``, ``enc_proj_norm.*``,
    ``level_embeds`` (L, C), ``encoder.*``.

    Args:
        num_classes: K.
        channels: of the maps and of each tower; a multiple of 32, from 64 on.
        dim, num_heads, ffn_dim, dropout, num_layers, attention, checkpoint: of the :class:`SetEncoder`.
        strides: pixels per cell of each level.
        num_convs: of each tower.
        deformable: the last convolution of each tower is deformable.
        num_tokens: points that are chosen, all of them if there are fewer; None = all points.
        token_keep: in training a random share of the chosen points stays, from the least to the greatest, drawn for
            each batch; one number: always that. The code of TSP keeps 0.7 to 1, its paper 0.3.
        gt_boost: in training points that are candidates of objects come before others: (score + 1) / 2.
        mask_padded_tokens: points outside of their image are neither chosen nor supervised, nor attended to where there
            are not enough others. False: as TSP's code, which may choose them.
        foi_head: the score of a point is its best class (``classwise``) or objectness alone (``binary``).
        radius: of FCOS's rule, in strides; None = all of a box.
        parity_padding: which cells are padding as in TSP's code, for its checkpoints; see :class:`Points`.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int = 256,
        dim: int = 512,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        dropout: float = 0.1,
        num_layers: int = 6,
        strides: Sequence[int] = (8, 16, 32, 64, 128),
        num_convs: int = 4,
        deformable: bool = False,
        num_tokens: int | None = 700,
        token_keep: float | Sequence[float] = (0.7, 1.0),
        gt_boost: bool = True,
        mask_padded_tokens: bool = True,
        foi_head: str = "classwise",
        radius: float | None = 1.5,
        parity_padding: bool = False,
        attention: str = "sdpa",
        checkpoint: bool = False,
    ) -> None:
        require_classes(num_classes)
        super().__init__()
        if foi_head not in ("classwise", "binary"):
            raise ValueError(f"foi_head must be one of classwise, binary, got '{foi_head}'")
        if channels % 32 or channels < 64:  # a group of one channel has no statistics on a map of one cell
            raise ValueError(f"channels must be a multiple of 32 (the towers' norms) from 64 on, got {channels}")
        self.dim, self.channels, self.strides, self.num_levels = dim, channels, tuple(strides), len(strides)
        self.num_tokens, self.token_keep, self.radius = num_tokens, kept_shares(token_keep), radius or math.inf
        self.gt_boost, self.mask_padded_tokens, self.parity_padding = gt_boost, mask_padded_tokens, parity_padding
        self.class_tower, self.box_tower = (tower(channels, num_convs, deformable) for _ in range(2))
        self.class_embed = nn.Conv2d(channels, num_classes if foi_head == "classwise" else 1, 3, 1, 1)
        nn.init.normal_(self.class_embed.weight, std=0.01)
        reset_head(self.class_embed)
        self.enc_proj, self.enc_proj_norm = nn.Linear(2 * channels, dim), nn.LayerNorm(dim)
        self.level_embeds = nn.Parameter(torch.ones(self.num_levels, dim))
        self.encoder = SetEncoder(dim, num_heads, ffn_dim, dropout, num_layers, attention, checkpoint)

    def forward(self, features: Features, targets: Targets | None = None) -> tuple[Memory, list[SupervisedSet]]:
        """The encoded tokens (B, N, C), best first, and in training the scores of all points (B, P, K).

        Raises:
            ValueError: maps of another number of levels than there are strides.
        """
        if len(features.maps) != self.num_levels:
            raise ValueError(f"{len(features.maps)} maps, but strides for {self.num_levels}: {list(self.strides)}")
        targets = targets if self.training else None
        towers = [[run(m) for m in features.maps] for run in (self.class_tower, self.box_tower)]
        logits_BPK = flatten_levels([self.class_embed(m).permute(0, 2, 3, 1) for m in towers[0]])
        points = Points.of(features, self.strides, self.parity_padding)
        pad_BP = points.pad_BP if self.mask_padded_tokens else None
        everywhere, ref_BP4 = self._places(features, points, targets)
        index_BN = self.choose(logits_BPK, everywhere.candidate_gt_BQ, pad_BP)
        left_out_N = None
        if not eager():
            left_out_N = self.left_out(index_BN.shape[1])
        elif (kept := self.kept(index_BN.shape[1])) is not None:
            index_BN = index_BN[:, moved(kept, index_BN.device)]
        chosen = Given(prior=everywhere, valid_BQ=None if pad_BP is None else ~pad_BP).pick(index_BN)
        pad_BN = None if pad_BP is None else ~chosen.valid_BQ
        if left_out_N is not None:
            out_BN = moved(left_out_N, index_BN.device).expand(index_BN.shape)
            pad_BN = out_BN if pad_BN is None else pad_BN | out_BN
        tokens, pos = self._tokens(towers, points, index_BN)
        mem = Memory(
            self.encoder(tokens, pos, pad_BN),
            pos,
            pad_BN,
            ((1, index_BN.shape[1]),),
            (1,),
            torch.ones_like(points.valid_BL2[:, :1]),
            features.image_hw_B2,
            replace(chosen.prior, boxes_BQ4=tokens_at(ref_BP4, index_BN)),
        )
        if targets is None:
            return mem, []
        given = Given(prior=everywhere, valid_BQ=None if pad_BP is None else ~pad_BP)
        return mem, [SupervisedSet(logits_BPK, ref_BP4, -1, "token", given=given)]

    def _places(self, features: Features, points: Points, targets: Targets | None) -> tuple[Prior, Tensor]:
        """Normalized points, strides and candidates, and each point as a box of its stride's size (B, P, 4)."""
        B, size_B12 = features.image_hw_B2.shape[0], features.image_hw_B2.flip(1)[:, None]
        points_BP2 = points.points_P2 / size_B12
        ref_BP4 = torch.cat([points_BP2, points.strides_P[:, None] / size_B12], -1)
        gt_BP = torch.full((B, len(points)), -1, device=size_B12.device)
        if targets is not None:
            size_G4 = size_B12[:, 0].repeat(1, 2)[targets.image_G]
            boxes_G4 = box_cxcywh_to_xyxy(targets.boxes_G4.to(size_G4.dtype)) * size_G4
            about = (points.points_P2, points.strides_P, points.levels_P, boxes_G4, targets.image_G, B)
            gt_BP = fcos_targets(*about, self.radius, level_ranges(self.strides))
        return Prior(None, points_BP2, points.strides_P.expand(B, -1), gt_BP), ref_BP4

    @torch.no_grad()
    def choose(self, logits_BPK: Tensor, gt_BP: Tensor, pad_BP: Tensor | None) -> Tensor:
        """The best ``num_tokens`` points of each image, (B, k) int64, best first."""
        total = logits_BPK.shape[1]
        best_BP = logits_BPK.amax(-1)
        scores_BP = best_BP.to(torch.promote_types(best_BP.dtype, torch.float32)).sigmoid()
        if self.training and self.gt_boost:
            scores_BP = torch.where(gt_BP >= 0, 0.5 * (scores_BP + 1), scores_BP)
        if pad_BP is not None:
            scores_BP = scores_BP.masked_fill(pad_BP, -1.0)
        k = total if self.num_tokens is None else min(self.num_tokens, total)
        return scores_BP.topk(k, 1).indices

    def kept(self, count: int) -> Tensor | None:
        """Which of so many ranks stay in this pass, ascending, the same for the whole batch; None = all.

        Drawn from torch's generator on the CPU, whose state is in checkpoints.
        """
        least, most = self.token_keep
        if not self.training or least == 1:
            return None
        share = most - torch.rand(()).item() * (most - least) if least < most else most
        return torch.randperm(count)[: max(1, int(count * share))].sort().values

    def left_out(self, count: int) -> Tensor | None:
        """What :meth:`kept` leaves out, (count,) bool: in a graph, of one number of tokens, these are padding."""
        least, most = self.token_keep
        if not self.training or least == 1:
            return None
        share = most - torch.rand(()) * (most - least)
        return torch.randperm(count) >= (count * share).int().clamp(min=1)

    def _tokens(self, towers: Sequence[Sequence[Tensor]], points: Points, index_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, C) of chosen points, and their positions."""
        if self.num_tokens is None:
            flat = [flatten_levels([m.permute(0, 2, 3, 1) for m in maps]) for maps in towers]
            found = [tokens_at(x, index_BN) for x in flat]
        else:
            found = [points.gather(maps, index_BN) for maps in towers]
        tokens = self.enc_proj_norm(self.enc_proj(torch.cat(found, -1)))
        level_BN = points.levels_P[index_BN]
        dtype = torch.promote_types(tokens.dtype, torch.float32)
        valid_BN2 = tokens_at(points.valid_BL2, level_BN).to(dtype)
        code = sine_cells(points.cells_P2[index_BN], valid_BN2, self.dim // 2)
        return tokens, code + F.embedding(level_BN, self.level_embeds)
