"""Deformable-DETR's decoder (arXiv 2010.04159, sections 4.1 and 4.2).

Shape legend: B images, T tokens, L levels, C channels, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from detrex_ext.layers.attention import MultiheadAttention
from detrex_ext.layers.box_ops import LOGIT_EPS, checked_logit_eps, inverse_sigmoid
from detrex_ext.layers.mlp import FFN, MLP
from detrex_ext.layers.ms_deform_attn import MSDeformAttn, level_cells
from detrex_ext.layers.position import sine_boxes
from detrex_ext.structures import Memory, Queries

from ..sizes import require_classes
from .staged import StagedDecoder, drop_scratch


class DeformableDecoderLayer(nn.Module):
    """Parameters of one layer: self-attention, deformable cross-attention, FFN, each followed by its norm."""

    def __init__(
        self, dim: int, num_heads: int, num_levels: int, num_points: int, ffn_dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(
            [
                MultiheadAttention(dim, num_heads, dropout),
                MSDeformAttn(dim, num_heads, num_levels, num_points, dropout),
            ]
        )
        self.ffns = nn.ModuleList([FFN(dim, ffn_dim, dropout)])
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))


class DeformableDecoder(StagedDecoder):
    """Deformable-DETR's decoder in all its variants; references are normalized cxcywh, or points (``Slot.point``).

    Args:
        num_classes: K.
        dim, num_heads, num_levels, num_points, ffn_dim, dropout: sizes of a layer.
        num_layers: stages.
        refine: each stage moves its reference to its box (iterative box refinement), with heads of its own;
            otherwise the first reference stays and all stages share one head.
        position: ``given`` = the source's constant ``extra["query_pos"]``; ``reference`` = an MLP of the sine code of
            the current reference (DAB-DETR, DINO).
        look_forward_twice: the box loss of a stage also reaches the previous stage's box (DINO, section 3.5).
        cross_first: cross-attention comes before self-attention in a layer (MS-DETR, arXiv 2401.03989), with the same
            parameters under the same names.
        post_norm: a norm shared by all stages before the heads (DINO).
        first_size_logit: initial bias of width and height in the first head: -2 where references start as points, so
            that first boxes are small (Deformable-DETR); 0 where they start as boxes.
        order, eval_order, chunk: see :class:`StagedDecoder`.
        inverse_sigmoid_eps: how near to 0 and 1 the logit of a reference is taken, see
            :func:`~detrex_ext.layers.box_ops.inverse_sigmoid`.
    """

    def __init__(
        self, num_classes: int, dim: int = 256, num_heads: int = 8, num_levels: int = 4, num_points: int = 4,
        ffn_dim: int = 1024, dropout: float = 0.1, num_layers: int = 6, refine: bool = False, position: str = "given",
        look_forward_twice: bool = False, post_norm: bool = False, first_size_logit: float = 0.0,
        order: Sequence[int] | None = None, eval_order: Sequence[int] | None = None, chunk: int | None = None,
        inverse_sigmoid_eps: float = LOGIT_EPS, cross_first: bool = False,
    ) -> None:  # fmt: skip
        require_classes(num_classes)
        super().__init__(num_layers, order, eval_order, chunk)
        if position not in ("given", "reference"):
            raise ValueError(f"position must be 'given' or 'reference', got '{position}'")
        if look_forward_twice and not refine:
            raise ValueError("look_forward_twice needs refine=True: without refinement there is no earlier box")
        self.refine, self.look_forward_twice, self.num_points = refine, look_forward_twice, num_points
        self.layers = nn.ModuleList(
            DeformableDecoderLayer(dim, num_heads, num_levels, num_points, ffn_dim, dropout)
            for _ in range(num_layers)
        )
        self.ref_point_head = MLP(2 * dim, dim, dim, 2) if position == "reference" else None
        self.norm = nn.LayerNorm(dim) if post_norm else None
        self.dim, self.num_levels, self.cross_first = dim, num_levels, cross_first
        self.inverse_sigmoid_eps = checked_logit_eps(inverse_sigmoid_eps)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.xavier_uniform_(p)
        for layer in self.layers:
            layer.attentions[1].reset_parameters()
        heads = num_layers if refine else 1
        self.class_embed = nn.ModuleList(nn.Linear(dim, num_classes) for _ in range(heads))
        self.bbox_embed = nn.ModuleList(MLP(dim, dim, 4, 3) for _ in range(heads))
        for head in (*self.class_embed, *self.bbox_embed):
            reset_head(head)
        nn.init.constant_(self.bbox_embed[0].layers[-1].bias[2:], first_size_logit)

    def project(self, layer: int, mem: Memory) -> Tensor:
        """Values (B, S, heads, C / heads), zero at padding."""
        return self.layers[layer].attentions[1].project(mem.tokens_BSC, mem.pad_BS)

    def condition(self, layer: int, q: Queries, mem: Memory) -> Queries:
        """Scratch: ``_ref`` (B, T, 4), without gradient where a stage has refined it, and ``_pos`` (B, T, C)."""
        # a refined reference is data for the next stage; the first one may be learned through the sampling
        ref = q.ref_BT4.detach() if self.refine and layer > 0 else q.ref_BT4
        extra = {**q.extra, "_ref": ref}
        if self.ref_point_head is not None:
            # the code is taken in the padded image's frame, as the finest level sees it
            scale = torch.cat([mem.valid_BL2[:, 0], mem.valid_BL2[:, 0]], -1)[:, None]
            extra["_pos"] = self.ref_point_head(sine_boxes(ref * scale, self.dim // 2))
        else:
            extra["_pos"] = q.extra["query_pos"]
        return q.replace(extra=extra)

    def self_attend(self, layer: int, x: Queries) -> Queries:
        """See :meth:`StagedDecoder.self_attend`."""
        return x if self.cross_first else self.attend_then_norm(layer, x, x.extra["_pos"])

    def cross_attend(self, layer: int, x: Queries, kv: Tensor, mem: Memory) -> Queries:
        """See :meth:`StagedDecoder.cross_attend`; with ``cross_first`` its outcome stays as scratch ``_crossed``."""
        block = self.layers[layer]
        content = block.attentions[1](x.content_BTC, x.extra["_pos"], *self._around(x, mem), kv, mem.shapes)
        x = x.replace(content_BTC=block.norms[1](content))
        if self.cross_first:
            x = x.replace(extra={**x.extra, "_crossed": x.content_BTC})
            x = self.attend_then_norm(layer, x, x.extra["_pos"])
        return x.replace(content_BTC=block.norms[2](block.ffns[0](x.content_BTC)))

    def sampled(self, layer: int, x: Queries, mem: Memory) -> tuple[Tensor, Tensor]:
        """Points and weights of a stage's sampling, see :meth:`MSDeformAttn.points`."""
        return self.layers[layer].attentions[1].points(x.content_BTC, x.extra["_pos"], *self._around(x, mem))

    def _around(self, x: Queries, mem: Memory) -> tuple[Tensor, Tensor]:
        """Reference point, and one unit of sampling offset, on each level's map."""
        ref, valid = x.extra["_ref"][:, :, None], mem.valid_BL2[:, None]
        return ref[..., :2] * valid, self._unit(x, ref, valid, mem)

    def _unit(self, x: Queries, ref: Tensor, valid: Tensor, mem: Memory) -> Tensor:
        """One unit of sampling offset: a cell around a point, a share of half the box around a box."""
        cell = level_cells(mem.shapes, ref)
        box = ref[..., 2:] * valid * (0.5 / self.num_points)
        points = [s.point for s in x.slots if s.size]
        if all(points):
            return cell
        return torch.where(_point_mask(x)[..., None], cell, box) if any(points) else box

    def predict(self, layer: int, x: Queries, mem: Memory) -> tuple[Tensor, Tensor, Queries]:
        """See :meth:`StagedDecoder.predict`; a refined reference is a box, no point."""
        head = layer if self.refine else 0
        raw = x.content_BTC
        content = raw if self.norm is None else self.norm(raw)
        logits = self.class_embed[head](content)
        move = self.bbox_embed[head](content).to(x.ref_BT4.dtype)
        boxes = (move + self._logit(x, x.ref_BT4)).sigmoid()
        extra = drop_scratch(x.extra)
        if not self.refine:
            return logits, boxes, x.replace(extra=extra)
        if self.norm is not None:
            # the next reference comes from the content before the norm
            move = self.bbox_embed[head](raw).to(x.ref_BT4.dtype)
        new = boxes
        if self.norm is not None or self.look_forward_twice:
            new = (move + self._logit(x, x.extra["_ref"])).sigmoid()  # around the detached reference
        new = new if self.look_forward_twice else new.detach()
        slots = tuple(replace(s, point=False) for s in x.slots)
        return logits, boxes, x.replace(ref_BT4=new, slots=slots, extra=extra)

    def _logit(self, x: Queries, ref_BT4: Tensor) -> Tensor:
        """Logit of the reference; zero where a point has no width and height."""
        logit = inverse_sigmoid(ref_BT4, self.inverse_sigmoid_eps)
        if any(s.point for s in x.slots):
            known = torch.ones(4, dtype=torch.bool, device=logit.device)
            known[2:] = False
            logit = torch.where(known | ~_point_mask(x), logit, 0.0)
        return logit


def _point_mask(x: Queries) -> Tensor:
    """(1, T, 1) bool, True for tokens of point slots."""
    flags = [torch.full((s.size,), s.point, device=x.ref_BT4.device) for s in x.slots]
    return torch.cat(flags)[None, :, None]


def reset_head(head: nn.Module) -> None:
    """Prior probability 0.01 for a class head (focal loss); a box head starts at its reference."""
    if isinstance(head, (nn.Linear, nn.Conv2d)):
        nn.init.constant_(head.bias, -math.log((1 - 0.01) / 0.01))
    else:
        nn.init.zeros_(head.layers[-1].weight)
        nn.init.zeros_(head.layers[-1].bias)
