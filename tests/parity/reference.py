"""A second, independent reading of Deformable-DETR: plain functions over a state dict in detrex's layout.

It shares no code with ``detrex_ext``: golden values come from here. Written from the description of the method
(Zhu et al., "Deformable DETR", https://arxiv.org/abs/2010.04159, sections 4.1-4.2 and appendix A.4) and of detrex's
conventions. Every value is computed in the dtype of the weights, so the same reading serves fp32 and fp64.

Shape legend: B images, S memory tokens, Q queries, L levels, K sampling points, C channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Dims:
    """Sizes of a model; the defaults are the published ones."""

    channels: int = 256
    heads: int = 8
    levels: int = 4
    points: int = 4
    encoder_layers: int = 6
    decoder_layers: int = 6
    ffn: int = 1024
    classes: int = 80
    queries: int = 300
    groups: int = 32
    refine: bool = False
    two_stage: bool = False
    dino: bool = False
    feature_channels: tuple[int, ...] = (512, 1024, 2048)

    @property
    def head_count(self) -> int:
        """Prediction heads, the encoder's included."""
        return self.decoder_layers + int(self.two_stage)


@dataclass
class Reading:
    """What the model says: per stage (B, Q, classes) and (B, Q, 4), and the encoder's own (B, S, .) or None."""

    logits: list[Tensor]
    boxes: list[Tensor]
    enc_logits: Tensor | None
    enc_boxes: Tensor | None
    chosen_BQ: Tensor | None


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def norm(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)


def mlp(w: Weights, name: str, x: Tensor) -> Tensor:
    x = linear(w, f"{name}.layers.0", x).relu()
    x = linear(w, f"{name}.layers.1", x).relu()
    return linear(w, f"{name}.layers.2", x)


def inverse_sigmoid(x: Tensor) -> Tensor:
    x = x.clamp(0, 1)
    return (x.clamp_min(1e-3) / (1 - x).clamp_min(1e-3)).log()


def frequencies(like: Tensor, count: int) -> Tensor:
    """The wavelengths T^(2 floor(i/2) / count), T = 10000."""
    i = torch.arange(count, dtype=like.dtype, device=like.device)
    return 10000 ** (2 * (i // 2) / count)


def waves(x: Tensor, count: int) -> Tensor:
    """Sines at even and cosines at odd places of a new last axis."""
    angle = x[..., None] / frequencies(x, count)
    even = torch.arange(count, device=x.device) % 2 == 0
    return torch.where(even, angle.sin(), angle.cos())


def sine_map(pad_BHW: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    """Position code (B, H, W, C): y half, then x half; positions counted over the valid area, offset -0.5."""
    valid = (~pad_BHW).to(dtype)
    parts = []
    for axis in (1, 2):
        place = valid.cumsum(axis)
        last = place.select(axis, place.shape[axis] - 1).unsqueeze(axis)
        parts.append(waves((place - 0.5) / (last + 1e-6) * 2 * math.pi, channels // 2))
    return torch.cat(parts, -1)


def neck(w: Weights, dims: Dims, features: dict[str, Tensor]) -> list[Tensor]:
    """1x1 convolutions with group norm; further levels by a strided 3x3 on the raw coarsest map."""
    maps = list(features.values())
    out = []
    for level in range(dims.levels):
        extra = level - len(maps)
        name = f"neck.convs.{level}" if extra < 0 else f"neck.extra_convs.{extra}"
        source = maps[level] if extra < 0 else (maps[-1] if extra == 0 else out[-1])
        geometry = {} if extra < 0 else {"stride": 2, "padding": 1}
        x = F.conv2d(source, w[f"{name}.conv.weight"], w[f"{name}.conv.bias"], **geometry)
        out.append(F.group_norm(x, dims.groups, w[f"{name}.norm.weight"], w[f"{name}.norm.bias"], 1e-5))
    return out


def self_attention(
    w: Weights, name: str, dims: Dims, x_BQC: Tensor, pos_BQC: Tensor, hidden_QQ: Tensor | None = None
) -> Tensor:
    """Multi-head attention of queries among themselves, residual included; ``hidden_QQ``: True = unseen."""
    weight, bias = w[f"{name}.attn.in_proj_weight"].chunk(3), w[f"{name}.attn.in_proj_bias"].chunk(3)
    inputs = (x_BQC + pos_BQC, x_BQC + pos_BQC, x_BQC)
    q, k, v = (
        F.linear(t, weight[j], bias[j]).unflatten(-1, (dims.heads, -1)).transpose(1, 2) for j, t in enumerate(inputs)
    )
    scores_BHQQ = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if hidden_QQ is not None:
        scores_BHQQ = scores_BHQQ.masked_fill(hidden_QQ, -math.inf)
    map_BHQQ = scores_BHQQ.softmax(-1)
    return x_BQC + linear(w, f"{name}.attn.out_proj", (map_BHQQ @ v).transpose(1, 2).flatten(2))


@dataclass
class Scene:
    """Where memory tokens lie: shapes per level, padding (B, S), valid ratios (B, L, 2) as (x, y)."""

    shapes: list[tuple[int, int]]
    pad_BS: Tensor
    ratio_BL2: Tensor


def deformable_attention(
    w: Weights, name: str, dims: Dims, x_BQC: Tensor, pos_BQC: Tensor, ref: Tensor, memory_BSC: Tensor, scene: Scene
) -> Tensor:
    """Sampling attention, residual included; ``ref`` is (B, Q, L, 2) points or (B, Q, L, 4) boxes."""
    B, Q, C = x_BQC.shape
    query = x_BQC + pos_BQC
    value = linear(w, f"{name}.value_proj", memory_BSC) * (~scene.pad_BS)[..., None]
    shape = (B, Q, dims.heads, dims.levels, dims.points)
    offset = linear(w, f"{name}.sampling_offsets", query).view(*shape, 2)
    share = linear(w, f"{name}.attention_weights", query).view(B, Q, dims.heads, -1).softmax(-1).view(shape)
    total, start = 0, 0
    for level, (h, w_) in enumerate(scene.shapes):
        at = ref[:, :, None, level, None]
        if at.shape[-1] == 2:
            place = at + offset[:, :, :, level] / offset.new_tensor([w_, h])
        else:
            place = at[..., :2] + offset[:, :, :, level] / dims.points * at[..., 2:] * 0.5
        image = value[:, start : start + h * w_].view(B, h, w_, dims.heads, -1).permute(0, 3, 4, 1, 2).flatten(0, 1)
        grid = (2 * place - 1).transpose(1, 2).flatten(0, 1)
        sample = F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        weight = share[:, :, :, level].transpose(1, 2).flatten(0, 1)
        total = total + (sample * weight[:, None]).sum(-1)
        start += h * w_
    mixed = total.view(B, dims.heads, -1, Q).permute(0, 3, 1, 2).reshape(B, Q, C)
    return x_BQC + linear(w, f"{name}.output_proj", mixed)


def feed_forward(w: Weights, name: str, x: Tensor) -> Tensor:
    return x + linear(w, f"{name}.ffns.0.layers.1", linear(w, f"{name}.ffns.0.layers.0.0", x).relu())


def cells(h: int, w_: int) -> Tensor:
    """(column, row) of each cell of a map, row-major."""
    return torch.stack(torch.meshgrid(torch.arange(w_), torch.arange(h), indexing="xy"), -1).flatten(0, 1)


def encode(w: Weights, dims: Dims, maps: list[Tensor], pad_BHW: Tensor) -> tuple[Tensor, Scene]:
    """Memory (B, S, C) and its scene; ``pad_BHW`` is the padding of the image batch (1 = padding)."""
    dtype = maps[0].dtype
    pads = [F.interpolate(pad_BHW[None].float(), size=m.shape[-2:])[0].bool() for m in maps]
    x = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)
    codes = [sine_map(p, dims.channels, dtype).flatten(1, 2) for p in pads]
    pos = torch.cat([c + w["transformer.level_embeds"][i] for i, c in enumerate(codes)], 1)
    fractions = [(~p).to(dtype) for p in pads]
    ratio = torch.stack([torch.stack([f[:, 0].mean(1), f[:, :, 0].mean(1)], -1) for f in fractions], 1)
    shapes = [tuple(m.shape[-2:]) for m in maps]
    scene = Scene(shapes, torch.cat([p.flatten(1) for p in pads], 1), ratio)
    points = []
    for level, (h, w_) in enumerate(shapes):
        points.append((cells(h, w_).to(dtype) + 0.5) / (ratio[:, level, None] * ratio.new_tensor([w_, h])))
    ref = torch.cat(points, 1)[:, :, None] * ratio[:, None]
    for i in range(dims.encoder_layers):
        name = f"transformer.encoder.layers.{i}"
        x = norm(w, f"{name}.norms.0", deformable_attention(w, f"{name}.attentions.0", dims, x, pos, ref, x, scene))
        x = norm(w, f"{name}.norms.1", feed_forward(w, name, x))
    return x, scene


def propose(w: Weights, dims: Dims, memory_BSC: Tensor, scene: Scene) -> tuple[Tensor, Tensor]:
    """Encoder logits (B, S, classes) and box logits (B, S, 4); box logits are +inf where no proposal is made."""
    boxes, start = [], 0
    for level, (h, w_) in enumerate(scene.shapes):
        pad = scene.pad_BS[:, start : start + h * w_].view(-1, h, w_)
        extent = torch.stack([(~pad)[:, 0].sum(1), (~pad)[:, :, 0].sum(1)], -1)
        center = (cells(h, w_).to(memory_BSC.dtype) + 0.5) / extent[:, None]
        boxes.append(torch.cat([center, torch.full_like(center, 0.05 * 2**level)], -1))
        start += h * w_
    box = torch.cat(boxes, 1)
    bad = ~((box > 0.01) & (box < 0.99)).all(-1) | scene.pad_BS
    start_logit = (box / (1 - box)).log().masked_fill(bad[..., None], math.inf)
    tokens = norm(w, "transformer.enc_output_norm", linear(w, "transformer.enc_output", memory_BSC * ~bad[..., None]))
    head = dims.decoder_layers
    return linear(w, f"class_embed.{head}", tokens), mlp(w, f"bbox_embed.{head}", tokens) + start_logit


def forward(
    w: Weights, dims: Dims, features: dict[str, Tensor], pad_BHW: Tensor, chosen_BQ: Tensor | None = None
) -> Reading:
    """From backbone maps (finest first) to all predictions.

    Args:
        w: weights, detrex's names.
        dims: sizes.
        features: backbone maps by name, finest first.
        pad_BHW: 1 where the image batch is padding (all zeros reproduces detrex in evaluation).
        chosen_BQ: two-stage: use these tokens instead of the best by class 0.
    """
    memory, scene = encode(w, dims, neck(w, dims, features), pad_BHW)
    B, C = memory.shape[0], dims.channels
    enc_logits = enc_boxes = None
    if dims.two_stage:
        enc_logits, enc_box_logits = propose(w, dims, memory, scene)
        enc_boxes = enc_box_logits.sigmoid()
        if chosen_BQ is None:
            chosen_BQ = enc_logits[..., 0].topk(dims.queries, 1).indices
        ref = enc_boxes.gather(1, chosen_BQ[..., None].expand(-1, -1, 4)).detach()
        code = linear(w, "transformer.pos_trans", waves(ref * 2 * math.pi, C // 2).flatten(2))
        pos, x = norm(w, "transformer.pos_trans_norm", code).split(C, -1)
    else:
        pos, x = (t.expand(B, -1, -1) for t in w["query_embedding.weight"].split(C, -1))
        ref = linear(w, "transformer.reference_points", pos).sigmoid()
    logits, boxes = [], []
    for i in range(dims.decoder_layers):
        name = f"transformer.decoder.layers.{i}"
        wide = scene.ratio_BL2 if ref.shape[-1] == 2 else scene.ratio_BL2.repeat(1, 1, 2)
        x = norm(w, f"{name}.norms.0", self_attention(w, f"{name}.attentions.0", dims, x, pos))
        at = ref[:, :, None] * wide[:, None]
        x = deformable_attention(w, f"{name}.attentions.1", dims, x, pos, at, memory, scene)
        x = norm(w, f"{name}.norms.2", feed_forward(w, name, norm(w, f"{name}.norms.1", x)))
        logits.append(linear(w, f"class_embed.{i}", x))
        center = F.pad(inverse_sigmoid(ref), (0, 4 - ref.shape[-1]))
        boxes.append((mlp(w, f"bbox_embed.{i}", x) + center).sigmoid())
        if dims.refine:
            ref = boxes[-1].detach()
    return Reading(logits, boxes, enc_logits, enc_boxes, chosen_BQ)
