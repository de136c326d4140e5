"""AdaMixer's decoder (arXiv 2203.16507): sampling in scale space, then mixing by matrices that the query makes.

Shape legend: B images, T tokens, L tokens of a domain, S memory tokens, G groups, C channels, K classes. References are
(x, y, z, r) of :mod:`detrex_ext.layers.xyzr`, in pixels of the padded image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from detrex_ext.layers.adaptive_mixing import AdaptiveMixing
from detrex_ext.layers.attention import MultiheadAttention
from detrex_ext.layers.box_ops import box_cxcywh_to_xyxy, box_iof_pairwise
from detrex_ext.layers.mlp import FFN
from detrex_ext.layers.position import sine_scalars
from detrex_ext.layers.sampling_3d import sample_3d
from detrex_ext.layers.xyzr import refine_xyzr, xyzr_to_boxes
from detrex_ext.structures import Memory, Queries
from detrex_ext.structures.placing import placed

from ..sizes import require_classes
from .deformable import reset_head
from .staged import StagedDecoder, drop_scratch


class AdaMixerLayer(nn.Module):
    """Parameters of one stage: self-attention and the weight of its bias, sampling, mixing, FFN, three norms."""

    def __init__(self, dim: int, num_heads: int, groups: int, in_points: int, out_points: int, ffn_dim: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([MultiheadAttention(dim, num_heads)])
        self.iof_tau = nn.Parameter(torch.empty(num_heads).uniform_(0.0, 4.0))
        self.sampling_offsets = nn.Linear(dim, groups * in_points * 3)
        self.mixing = AdaptiveMixing(dim, groups, in_points, out_points)
        self.ffns = nn.ModuleList([FFN(dim, ffn_dim)])
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        for part in (self.attentions, self.ffns):
            _xavier(part)
        nn.init.zeros_(self.sampling_offsets.weight)
        # points start anywhere within the box, at half its scale
        nn.init.uniform_(self.sampling_offsets.bias, -0.5, 0.5)
        with torch.no_grad():
            self.sampling_offsets.bias[2::3] = -1.0


class AdaMixerDecoder(StagedDecoder):
    """AdaMixer's decoder. It needs no encoder: a neck of one width and norm is all that stands before it.

    As in the published models, a stage's position code is added to the content itself, and so to the value and the
    residual of the self-attention.

    Args:
        num_classes: K.
        dim, num_heads, ffn_dim: C and sizes of a stage.
        groups: G, parts of the channels with sampling points and mixing matrices of their own.
        in_points, out_points: points sampled per group, and rows that spatial mixing makes of them.
        num_layers: stages.
        strides: pixels per cell of each level of the memory.
        mask_padding: padding counts as outside of the image, as zeros. False: it is sampled as any other place, as
            the published models have it; what an image's batch adds to it then changes its outcome.
        order, eval_order, chunk: see :class:`StagedDecoder`.
    """

    boxes_in_image = False

    def __init__(
        self,
        num_classes: int,
        dim: int = 256,
        num_heads: int = 8,
        groups: int = 4,
        in_points: int = 32,
        out_points: int = 128,
        ffn_dim: int = 2048,
        num_layers: int = 6,
        strides: Sequence[int] = (4, 8, 16, 32),
        mask_padding: bool = True,
        order: Sequence[int] | None = None,
        eval_order: Sequence[int] | None = None,
        chunk: int | None = None,
    ) -> None:
        require_classes(num_classes)
        super().__init__(num_layers, order, eval_order, chunk)
        self.dim, self.groups, self.in_points = dim, groups, in_points
        self.strides, self.mask_padding = tuple(strides), mask_padding
        self.layers = nn.ModuleList(
            AdaMixerLayer(dim, num_heads, groups, in_points, out_points, ffn_dim) for _ in range(num_layers)
        )
        self.class_embed = nn.ModuleList(_tower(dim, num_classes) for _ in range(num_layers))
        self.bbox_embed = nn.ModuleList(_tower(dim, 4) for _ in range(num_layers))
        for classes, box in zip(self.class_embed, self.bbox_embed, strict=True):
            reset_head(classes[-1])
            nn.init.zeros_(box[-1].weight)
            nn.init.zeros_(box[-1].bias)

    def prepare(self, mem: Memory) -> Memory:
        """See :meth:`StagedDecoder.prepare`.

        Raises:
            ValueError: the memory has more or fewer levels than ``strides``.
        """
        if len(mem.shapes) != len(self.strides):
            raise ValueError(f"the memory has {len(mem.shapes)} levels, decoder.strides names {list(self.strides)}")
        if not self.mask_padding or mem.pad_BS is None:
            return mem
        # stages sample the neck's maps as they are
        inside = (~mem.pad_BS)[..., None].to(mem.tokens_BSC.dtype)
        return replace(mem, tokens_BSC=mem.tokens_BSC * inside)

    def project(self, layer: int, mem: Memory) -> Tensor:
        """Values (B, S, G, C / G)."""
        return mem.tokens_BSC.unflatten(-1, (self.groups, -1))

    def condition(self, layer: int, q: Queries, mem: Memory) -> Queries:
        """Scratch: ``_ref`` (B, T, 4) in pixels, without gradient, and ``_pos`` (B, T, C), its code."""
        ref = q.ref_BT4.detach()
        code = sine_scalars(ref / placed([1000.0, 1000.0, 1.0, 1.0], ref), self.dim // 4)
        return q.replace(extra={**q.extra, "_ref": ref, "_pos": code})

    def self_attend(self, layer: int, x: Queries) -> Queries:
        """See :meth:`StagedDecoder.self_attend`; a bias (B, heads, L, L) says how much of a box lies in another."""
        block = self.layers[layer]

        def attend(content: Tensor, ref: Tensor, mask: Tensor | None) -> Tensor:
            bias = block.iof_tau[:, None, None] * _log_iof(ref)[:, None]
            bias = bias if mask is None else bias.masked_fill(~mask, float("-inf"))
            return block.norms[0](block.attentions[0](content, None, bias))

        content = x.content_BTC + x.extra["_pos"]
        return x.replace(content_BTC=self.per_domain(layer, x, attend, content, x.extra["_ref"]))

    def bypass(self, layer: int, x_BTC: Tensor) -> Tensor:
        """The norm stays: the position code reaches the content here and nowhere else."""
        return self.layers[layer].norms[0](x_BTC)

    def cross_attend(self, layer: int, x: Queries, kv: Tensor, mem: Memory) -> Queries:
        """See :meth:`StagedDecoder.cross_attend`; samples (B, T, G, points, C / G), mixed by the content."""
        block, points = self.layers[layer], self.sampled(layer, x)
        sampled = sample_3d(kv, mem.shapes, self.strides, points)
        content = block.norms[1](x.content_BTC + block.mixing(sampled, x.content_BTC))
        return x.replace(content_BTC=block.norms[2](block.ffns[0](content)))

    def sampled(self, layer: int, x: Queries) -> Tensor:
        """Points (B, T, G, points, 3) that a stage samples: x, y in pixels of the image, z = log2 of a scale."""
        block, ref = self.layers[layer], x.extra["_ref"]
        offset = block.sampling_offsets(x.content_BTC).to(ref.dtype)
        # offsets in the plane are in units of the box, that of the scale is an octave
        unit = torch.cat([xyzr_to_boxes(ref)[..., 2:], torch.ones_like(ref[..., :1])], -1)
        center, unit = (t[:, :, None, None] for t in (ref[..., :3], unit))
        return torch.addcmul(center, offset.unflatten(-1, (self.groups, self.in_points, 3)), unit)

    def predict(self, layer: int, x: Queries, mem: Memory) -> tuple[Tensor, Tensor, Queries]:
        """See :meth:`StagedDecoder.predict`."""
        ref = x.extra["_ref"]
        logits = self.class_embed[layer](x.content_BTC)
        new = refine_xyzr(ref, self.bbox_embed[layer](x.content_BTC).to(ref.dtype))
        wh = mem.image_hw_B2.flip(1).to(ref.dtype)
        boxes = xyzr_to_boxes(new) / wh.repeat(1, 2)[:, None]
        return logits, boxes, x.replace(ref_BT4=new.detach(), extra=drop_scratch(x.extra))


def _log_iof(ref_BL4: Tensor) -> Tensor:
    """(B, L, L) log of the share of box i that lies in box j."""
    boxes = box_cxcywh_to_xyxy(xyzr_to_boxes(ref_BL4))
    return (box_iof_pairwise(boxes, boxes) + 1e-7).log()


def _tower(dim: int, out_dim: int) -> nn.Sequential:
    tower = nn.Sequential(nn.Linear(dim, dim), nn.LayerNorm(dim), nn.ReLU(), nn.Linear(dim, out_dim))
    _xavier(tower)
    return tower


def _xavier(module: nn.Module) -> None:
    """Xavier weights and torch's random biases for all linear layers, the attention's output among them."""
    for m in module.modules():
        if isinstance(m, nn.Linear):
            m.reset_parameters()
            nn.init.xavier_uniform_(m.weight)
