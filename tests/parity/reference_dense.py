"""A second, independent reading of DETR and DAB-DETR: plain functions over a state dict in detrex's layout.

It shares no code with ``detrex_ext``. Written from the papers (Carion et al., https://arxiv.org/abs/2005.12872; Liu et
al., https://arxiv.org/abs/2201.12329) and a description of detrex's conventions, in the dtype of the weights.

Shape legend: B images, S memory tokens, Q queries, H heads, C channels.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .reference import Reading, Weights, inverse_sigmoid, linear, norm
from .reference_loss import giou

KEYS = Path(__file__).parent / "keys"
EOS = 0.1


@dataclass(frozen=True)
class DenseDims:
    """Sizes of a narrow model; ``dump`` names the file of detrex's keys that it is a small copy of."""

    dump: str
    dab: bool
    temperature: float
    patterns: int = 0
    channels: int = 32
    heads: int = 4
    encoder_layers: int = 2
    decoder_layers: int = 3
    ffn: int = 48
    features: int = 48
    classes: int = 7
    queries: int = 20


DENSE = {
    "detr": DenseDims("detr_r50", dab=False, temperature=10000.0),
    "dab": DenseDims("dab_detr_r50", dab=True, temperature=20.0),
    "dab_3patterns": DenseDims("dab_detr_r50_3patterns", dab=True, temperature=20.0, patterns=3),
}


def dumped_shapes(dump: str) -> dict[str, tuple[int, ...]]:
    """Name -> shape of detrex's published model."""
    return {k: tuple(v) for k, v in json.loads((KEYS / f"{dump}.json").read_text()).items()}


def narrow_shapes(dims: DenseDims) -> dict[str, tuple[int, ...]]:
    """The same with fewer channels and layers, without the backbone."""
    c = dims.channels
    small = {256: c, 512: 2 * c, 768: 3 * c, 2048: dims.ffn, 80: dims.classes, 81: dims.classes + 1}
    small |= {100: dims.queries, 300: dims.queries}
    layers = {"encoder": dims.encoder_layers, "decoder": dims.decoder_layers}
    found = {}
    for name, shape in dumped_shapes(dims.dump).items():
        side, _, rest = name.removeprefix("transformer.").partition(".")
        deep = rest.startswith("layers.") and int(rest.split(".")[1]) >= layers.get(side, 99)
        if not name.startswith("backbone.") and not deep:
            found[name] = tuple(small.get(n, n) for n in shape)
    return found


def mlp(w: Weights, name: str, x: Tensor) -> Tensor:
    count = sum(key.startswith(f"{name}.layers.") and key.endswith(".weight") for key in w)
    for i in range(count):
        x = linear(w, f"{name}.layers.{i}", x)
        x = x.relu() if i < count - 1 else x
    return x


def code(x: Tensor, count: int, temperature: float) -> Tensor:
    """sin(x / T^(2j/count)), cos(x / T^(2j/count)) for j = 0, 1, ..., alternating in a new last axis."""
    j = torch.arange(count // 2, dtype=x.dtype)
    angle = x[..., None] / temperature ** (2 * j / count)
    return torch.cat([angle.sin()[..., None], angle.cos()[..., None]], -1).flatten(-2)


def map_code(pad_BHW: Tensor, channels: int, temperature: float, dtype: torch.dtype) -> Tensor:
    """(B, H W, C): y half, then x half; valid cells are counted along each row and column."""
    valid = (~pad_BHW).to(dtype)
    parts = []
    for axis in (1, 2):
        count = valid.cumsum(axis)
        share = count / (count.narrow(axis, count.shape[axis] - 1, 1) + 1e-6)
        parts.append(code(share * 2 * math.pi, channels // 2, temperature))
    return torch.cat(parts, -1).flatten(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, pad_BS: Tensor | None = None) -> Tensor:
    """softmax(q k / sqrt(width of a head)) v over the keys that are not padding."""
    q, k, v = (x.unflatten(-1, (heads, -1)).permute(0, 2, 1, 3) for x in (q, k, v))
    scores = torch.einsum("bhqd,bhsd->bhqs", q, k) / math.sqrt(q.shape[-1])
    if pad_BS is not None:
        scores = scores.masked_fill(pad_BS[:, None, None], -math.inf)
    return torch.einsum("bhqs,bhsd->bhqd", scores.softmax(-1), v).permute(0, 2, 1, 3).flatten(2)


def plain(w: Weights, name: str, heads: int, x: Tensor, pos: Tensor, mem: Tensor, mem_pos: Tensor, pad=None) -> Tensor:
    """Multi-head attention of x over mem, positions added to queries and keys, with residual."""
    weight, bias = w[f"{name}.attn.in_proj_weight"].chunk(3), w[f"{name}.attn.in_proj_bias"].chunk(3)
    q, k, v = (F.linear(t, weight[i], bias[i]) for i, t in enumerate((x + pos, mem + mem_pos, mem)))
    return x + linear(w, f"{name}.attn.out_proj", attend(q, k, v, heads, pad))


def feed_forward(w: Weights, name: str, x: Tensor) -> Tensor:
    inner = linear(w, f"{name}.layers.0.0", x)
    slope = w.get(f"{name}.layers.0.1.weight", torch.zeros(1, dtype=x.dtype))
    return x + linear(w, f"{name}.layers.1", torch.where(inner > 0, inner, slope * inner))


def encode(w: Weights, dims: DenseDims, image_map: Tensor, pad_BHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Memory, its position code and its padding, each (B, S, .)."""
    x = F.conv2d(image_map, w["input_proj.weight"], w["input_proj.bias"])
    pad = F.interpolate(pad_BHW[None].float(), size=x.shape[-2:])[0].bool()
    x, pos = x.flatten(2).transpose(1, 2), map_code(pad, dims.channels, dims.temperature, x.dtype)
    pad = pad.flatten(1)
    for i in range(dims.encoder_layers):
        name = f"transformer.encoder.layers.{i}"
        at = pos * mlp(w, "transformer.encoder.query_scale", x) if dims.dab else pos
        x = norm(w, f"{name}.norms.0", plain(w, f"{name}.attentions.0", dims.heads, x, at, x, at, pad))
        x = norm(w, f"{name}.norms.1", feed_forward(w, f"{name}.ffns.0", x))
    return x, pos, pad


def conditional_self(w: Weights, name: str, heads: int, x: Tensor, pos: Tensor) -> Tensor:
    q, k = (linear(w, f"{name}.{t}_content_proj", x) + linear(w, f"{name}.{t}_pos_proj", pos) for t in ("query", "key"))
    return x + linear(w, f"{name}.out_proj", attend(q, k, linear(w, f"{name}.value_proj", x), heads))


def conditional_cross(
    w: Weights, name: str, heads: int, x: Tensor, pos: Tensor, place: Tensor, mem: Tensor, mem_pos: Tensor, pad
) -> Tensor:
    q, k = linear(w, f"{name}.query_content_proj", x), linear(w, f"{name}.key_content_proj", mem)
    there = linear(w, f"{name}.key_pos_proj", mem_pos)
    if f"{name}.query_pos_proj.weight" in w:
        q, k = q + linear(w, f"{name}.query_pos_proj", pos), k + there
    pairs = ((q, linear(w, f"{name}.query_pos_sine_proj", place)), (k, there))
    q, k = (torch.cat([t.unflatten(-1, (heads, -1)) for t in pair], -1).flatten(2) for pair in pairs)
    return x + linear(w, f"{name}.out_proj", attend(q, k, linear(w, f"{name}.value_proj", mem), heads, pad))


def decode_dab(w: Weights, dims: DenseDims, mem: Tensor, mem_pos: Tensor, pad: Tensor | None) -> Reading:
    """``pad`` None: cross-attention looks at padding too, as detrex's."""
    B, half = len(mem), dims.channels // 2
    anchors, patterns = w["anchor_box_embed.weight"], w.get("transformer.patterns.weight")
    if patterns is None:
        x = mem.new_zeros(B, len(anchors), dims.channels)
    else:
        x = torch.cat([p.expand(len(anchors), -1) for p in patterns]).expand(B, -1, -1)
        anchors = torch.cat([anchors] * len(patterns))
    start = anchors.sigmoid().expand(B, -1, -1)
    used, seen = start, start  # what a stage conditions on, and what its boxes are relative to
    logits, boxes = [], []
    for i in range(dims.decoder_layers):
        name = f"transformer.decoder.layers.{i}"
        cx, cy, width, height = (code(t * 2 * math.pi, half, 10000.0) for t in used.unbind(-1))
        pos = mlp(w, "transformer.decoder.ref_point_head", torch.cat([cy, cx, width, height], -1))
        scale = mlp(w, "transformer.decoder.query_scale", x) if i else torch.ones_like(x)
        wished = mlp(w, "transformer.decoder.ref_anchor_head", x).sigmoid()
        place_y = cy * scale[..., :half] * (wished[..., 1] / used[..., 3])[..., None]
        place_x = cx * scale[..., half:] * (wished[..., 0] / used[..., 2])[..., None]
        place = torch.cat([place_y, place_x], -1)
        x = norm(w, f"{name}.norms.0", conditional_self(w, f"{name}.attentions.0", dims.heads, x, pos))
        x = conditional_cross(w, f"{name}.attentions.1", dims.heads, x, pos, place, mem, mem_pos, pad)
        x = norm(w, f"{name}.norms.2", feed_forward(w, f"{name}.ffns.0", norm(w, f"{name}.norms.1", x)))
        out = norm(w, "transformer.decoder.post_norm_layer", x)
        logits.append(linear(w, "class_embed", out))
        boxes.append((mlp(w, "bbox_embed", out) + inverse_sigmoid(seen)).sigmoid())
        seen = (mlp(w, "bbox_embed", x) + inverse_sigmoid(used)).sigmoid()
        used = seen.detach()
    return Reading(logits, boxes, None, None, None)


def decode_detr(w: Weights, dims: DenseDims, mem: Tensor, mem_pos: Tensor, pad: Tensor) -> Reading:
    pos = w["query_embed.weight"].expand(len(mem), -1, -1)
    x = torch.zeros_like(pos)
    logits, boxes = [], []
    for i in range(dims.decoder_layers):
        name = f"transformer.decoder.layers.{i}"
        x = norm(w, f"{name}.norms.0", plain(w, f"{name}.attentions.0", dims.heads, x, pos, x, pos))
        x = norm(w, f"{name}.norms.1", plain(w, f"{name}.attentions.1", dims.heads, x, pos, mem, mem_pos, pad))
        x = norm(w, f"{name}.norms.2", feed_forward(w, f"{name}.ffns.0", x))
        out = norm(w, "transformer.decoder.post_norm_layer", x)
        logits.append(linear(w, "class_embed", out))
        boxes.append(mlp(w, "bbox_embed", out).sigmoid())
    return Reading(logits, boxes, None, None, None)


def forward(w: Weights, dims: DenseDims, image_map: Tensor, pad_BHW: Tensor, cross_masked: bool = True) -> Reading:
    """From the backbone's last map to all predictions.

    Args:
        w: weights, detrex's names.
        dims: sizes.
        image_map: (B, features, H, W).
        pad_BHW: 1 where the image batch is padding.
        cross_masked: DAB's decoder leaves out padding; False is detrex's.
    """
    mem, pos, pad = encode(w, dims, image_map, pad_BHW)
    if dims.dab:
        return decode_dab(w, dims, mem, pos, pad if cross_masked else None)
    return decode_detr(w, dims, mem, pos, pad)


def softmax_losses(reading: Reading, labels: list[Tensor], gt: list[Tensor]) -> dict[str, Tensor]:
    """DETR's weighted losses under detrex's names; equations 1 and 2 of its paper, "no object" at weight 0.1."""
    count, last, found = max(1, sum(map(len, labels))), len(reading.logits) - 1, {}
    for i, (logits, boxes) in enumerate(zip(reading.logits, reading.boxes, strict=True)):
        entropy = weight = bbox = overlap = 0.0
        for logit, box, label, truth in zip(logits, boxes, labels, gt, strict=True):
            with torch.no_grad():
                cost = -logit.softmax(-1)[:, label] + 5 * (box[:, None] - truth).abs().sum(-1)
                query, thing = map(torch.as_tensor, linear_sum_assignment(cost - 2 * giou(box[:, None], truth)))
            meant = torch.full((len(logit),), logit.shape[-1] - 1)
            meant[query] = label[thing]
            share = torch.full((len(logit),), EOS, dtype=logit.dtype)
            share[query] = 1.0
            entropy = entropy - (share * logit.log_softmax(-1)[torch.arange(len(logit)), meant]).sum()
            weight = weight + share.sum()
            bbox = bbox + (box[query] - truth[thing]).abs().sum()
            overlap = overlap + (1 - giou(box[query], truth[thing])).sum()
        terms = {"class": entropy / weight, "bbox": 5 * bbox / count, "giou": 2 * overlap / count}
        found |= {f"loss_{term}" + ("" if i == last else f"_{i}"): value for term, value in terms.items()}
    return found
