"""Two-stage queries: the best of the encoder's own proposals (arXiv 2010.04159, section 4.2; DINO, section 3.4).

Shape legend: B images, S memory tokens, Q queries, C channels, K classes.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from detrex_ext.layers.mlp import MLP
from detrex_ext.layers.position import sine_boxes
from detrex_ext.structures import Given, Memory, Prior, Queries, SupervisedSet, Targets

from ..decoders.deformable import reset_head
from ..encoders.deformable import cell_centers
from ..sizes import require_classes
from .base import Extra, QuerySource, slots_of


class TwoStageQueries(QuerySource):
    """Every memory token proposes a box; the best ``num_queries`` become references.

    Args:
        num_classes: K.
        num_queries: Q; fewer where the memory has fewer tokens.
        dim: C.
        content: ``projected`` = position and content from the sine code of the proposal (Deformable-DETR);
            ``learned`` = learned content in score order (DINO's mixed selection); ``mixed`` = position as in
            ``projected``, content as in ``learned`` (H-DETR, arXiv 2207.13080); ``memory`` = the proposal's token.
        score: ``objectness`` = class channel 0 (Deformable-DETR); ``max`` = best class (DINO).
        supervise: ``all`` proposals (Deformable-DETR) or the ``selected`` ones (DINO), as group ``enc``.
        anchor_size: width and height of a proposal's anchor on the finest level; doubles per level.
        match_anchors: matchers look at a proposal's anchor instead of its box (MS-DETR, Mr. DETR). As in the authors'
            code a token that may not propose has the anchor (1, 1, 1, 1).
    """

    def __init__(
        self,
        num_classes: int,
        num_queries: int = 300,
        dim: int = 256,
        content: str = "projected",
        score: str = "objectness",
        supervise: str = "all",
        anchor_size: float = 0.05,
        match_anchors: bool = False,
    ) -> None:
        require_classes(num_classes)
        super().__init__()
        for name, value, known in (
            ("content", content, ("projected", "learned", "mixed", "memory")),
            ("score", score, ("objectness", "max")),
            ("supervise", supervise, ("all", "selected")),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got '{value}'")
        self.num_queries, self.dim, self.content = num_queries, dim, content
        self.score, self.supervise, self.anchor_size = score, supervise, anchor_size
        self.match_anchors = match_anchors
        self.enc_output = nn.Linear(dim, dim)
        self.enc_output_norm = nn.LayerNorm(dim)
        self.pos_trans = self.tgt_embed = None
        self.positioned = content in ("projected", "mixed")
        if self.positioned:
            self.pos_trans = nn.Linear(2 * dim, 2 * dim)
            self.pos_trans_norm = nn.LayerNorm(2 * dim)
        if content in ("learned", "mixed"):
            self.tgt_embed = nn.Embedding(num_queries, dim)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.xavier_uniform_(p)
        if content == "mixed":
            nn.init.normal_(self.tgt_embed.weight)
        self.class_embed = nn.Linear(dim, num_classes)
        self.bbox_embed = MLP(dim, dim, 4, 3)
        reset_head(self.class_embed)
        reset_head(self.bbox_embed)

    def rows(self) -> nn.Embedding | None:
        """See :meth:`QuerySource.rows`."""
        return self.tgt_embed

    def forward(
        self, mem: Memory, targets: Targets | None = None, extra: Extra | None = None
    ) -> tuple[Queries, list[SupervisedSet]]:
        """See :meth:`QuerySource.forward`; proposals are supervised in training, ``extra`` asks for more of them."""
        anchors_BS4, valid_BS = proposal_anchors(mem, self.anchor_size)
        tokens = self.enc_output_norm(self.enc_output(mem.tokens_BSC.masked_fill(~valid_BS[..., None], 0.0)))
        supervise_all = self.training and self.supervise == "all"
        logits, scores = self._score(tokens, need_all=supervise_all or self.score == "max")
        index = self.select(scores) if extra is None else self.select(scores, extra.num)
        own = min(self.num_queries, index.shape[1])

        def pick(x: Tensor) -> Tensor:
            return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))

        if supervise_all:
            boxes = (self.bbox_embed(tokens).to(anchors_BS4.dtype) + anchors_BS4).sigmoid()
            supervised, ref = (logits, boxes), pick(boxes)
        else:
            ref = (self.bbox_embed(pick(tokens)).to(anchors_BS4.dtype) + pick(anchors_BS4)).sigmoid()
            supervised = (pick(logits)[:, :own], ref[:, :own]) if self.training else None
        queries = self._queries(ref.detach(), pick(tokens).detach(), own, extra)
        if supervised is None:
            return queries, []
        first = anchors_BS4.sigmoid().masked_fill(~valid_BS[..., None], 0.0)
        given = Given(prior=Prior(first, *token_points(mem, valid_BS)))
        for slot, start, end in queries.spans():
            chosen = given.pick(index[:, start:end]).prior
            queries.given[slot.group] = Given(prior=replace(chosen, boxes_BQ4=queries.ref_BT4[:, start:end]))
        given = given if supervise_all else given.pick(index[:, :own])
        seen = anchors_BS4 if supervise_all else pick(anchors_BS4)[:, :own]
        seen = seen.sigmoid() if self.match_anchors else None
        return queries, [SupervisedSet(*supervised, -1, "enc", given=given, match_boxes_BQ4=seen)]

    def select(self, scores_BS: Tensor, more: int = 0) -> Tensor:
        """(B, Q + more) tokens of the highest scores, best first."""
        return scores_BS.topk(min(self.num_queries + more, scores_BS.shape[1]), 1).indices

    def _score(self, tokens: Tensor, need_all: bool) -> tuple[Tensor | None, Tensor]:
        if need_all:
            logits = self.class_embed(tokens)
            return logits, logits[..., 0] if self.score == "objectness" else logits.amax(-1)
        head = self.class_embed
        return None, nn.functional.linear(tokens, head.weight[:1], head.bias[:1])[..., 0]

    def _queries(self, ref: Tensor, tokens: Tensor, own: int, extra: Extra | None) -> Queries:
        carried, content, total = {}, tokens, ref.shape[1]
        if self.pos_trans is not None:
            carried["query_pos"], content = self._project(ref)
        if self.tgt_embed is not None:
            rows = self.tgt_embed.weight[:own]
            if extra is not None:
                rows = torch.cat([rows, extra.rows[: total - own]])
            content = rows.expand(ref.shape[0], -1, -1)
        return Queries(content, ref, slots_of(own, extra, total), extra=carried)

    def _project(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        code = sine_boxes(boxes, self.dim // 2, order=(0, 1, 2, 3))
        return self.pos_trans_norm(self.pos_trans(code)).chunk(2, -1)

    def place(self, boxes_BT4: Tensor, mem: Memory) -> tuple[Tensor, dict[str, Tensor]]:
        """See :meth:`QuerySource.place`."""
        return boxes_BT4, {} if self.pos_trans is None else {"query_pos": self._project(boxes_BT4)[0]}


def token_points(mem: Memory, valid_BS: Tensor) -> tuple[Tensor, Tensor]:
    """Center (B, S, 2) of each token's cell as a share of the image, outside where invalid, and its stride (B, S)."""
    center_BS2 = cell_centers(mem).masked_fill(~valid_BS[..., None], -1.0)
    strides = [center_BS2.new_full((h * w,), stride) for (h, w), stride in zip(mem.shapes, mem.strides, strict=True)]
    return center_BS2, torch.cat(strides).expand(center_BS2.shape[0], -1)


def proposal_anchors(mem: Memory, size: float) -> tuple[Tensor, Tensor]:
    """Logits of each token's anchor box, and which tokens may propose.

    An anchor is centerd on its cell with width and height ``size * 2^level``; padding and anchors that come within
    0.01 of the border in any coordinate do not propose, and their logits are infinite.

    Returns:
        (B, S, 4) and (B, S) bool.
    """
    center = cell_centers(mem)
    wh = [center.new_full((h * w,), size * 2.0**level) for level, (h, w) in enumerate(mem.shapes)]
    wh_BS1 = torch.cat(wh)[None, :, None].expand(center.shape[0], -1, 1)
    anchor = torch.cat([center, wh_BS1, wh_BS1], -1)
    valid = ((anchor > 0.01) & (anchor < 0.99)).all(-1)
    if mem.pad_BS is not None:
        valid = valid & ~mem.pad_BS
    logits = torch.log(anchor / (1 - anchor))
    return logits.masked_fill(~valid[..., None], float("inf")), valid
