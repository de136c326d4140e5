"""AdaMixer read straight from its formulas: functions of a state dict under the official names, level by level.

Source: arXiv 2203.16507, section 3, with what the released code settles: the aspect is halved in w = 2^(z - r/2), and
the position code is added to the attention's value and residual.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

STRIDES = (4, 8, 16, 32)
State = dict[str, Tensor]


@dataclass(frozen=True)
class Dims:
    """Sizes of a model."""

    channels: int = 256
    heads: int = 8
    groups: int = 4
    in_points: int = 32
    out_points: int = 128
    ffn: int = 2048
    classes: int = 80
    queries: int = 100
    stages: int = 6
    features: tuple[int, ...] = (256, 512, 1024, 2048)


NARROW = Dims(32, 4, 2, 3, 5, 48, 7, 9, 3, (8, 12, 16, 20))


def shapes(d: Dims) -> dict[str, tuple[int, ...]]:
    """Official name -> shape of everything but the backbone."""

    def linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}

    def norm(name: str) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (c,), f"{name}.bias": (c,)}

    c, width = d.channels, d.channels // d.groups
    found = {
        "rpn_head.init_content_features.weight": (d.queries, c),
        "rpn_head.init_proposal_bboxes.weight": (d.queries, 4),
    }
    for i, feature in enumerate(d.features):
        name = f"neck.lateral_convs.{i}.conv"
        found |= {f"{name}.weight": (c, feature, 1, 1), f"{name}.bias": (c,)}
    found |= norm("neck.gn_out")
    for s in range(d.stages):
        p = f"roi_head.bbox_head.{s}"
        mixing = f"{p}.sampling_n_mixing"
        found |= {f"{p}.iof_tau": (d.heads,), f"{p}.attention.attn.in_proj_weight": (3 * c, c)}
        found |= {f"{p}.attention.attn.in_proj_bias": (3 * c,)} | linear(f"{p}.attention.attn.out_proj", c, c)
        found |= norm(f"{p}.attention_norm") | norm(f"{mixing}.norm") | norm(f"{p}.ffn_norm")
        found |= linear(f"{mixing}.sampling_offset_generator.0", 3 * d.groups * d.in_points, c)
        made = d.groups * (width * width + d.in_points * d.out_points)
        found |= linear(f"{mixing}.adaptive_mixing.parameter_generator.0", made, c)
        found |= linear(f"{mixing}.adaptive_mixing.out_proj", c, c * d.out_points)
        found |= linear(f"{p}.ffn.layers.0.0", d.ffn, c) | linear(f"{p}.ffn.layers.1", c, d.ffn)
        for kind, out in (("cls", d.classes), ("reg", 4)):
            found |= linear(f"{p}.{kind}_fcs.0", c, c) | norm(f"{p}.{kind}_fcs.1") | linear(f"{p}.fc_{kind}", out, c)
    return found


def random_state(d: Dims, seed: int = 0, dtype: torch.dtype = torch.float64) -> State:
    """Weights away from every degenerate start; boxes shrink from stage to stage."""
    make = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes(d).items():
        value = torch.randn(shape, generator=make, dtype=torch.float64)
        if "init_proposal" in name:
            value = torch.tensor([0.5, 0.5, 1.0, 1.0], dtype=torch.float64).expand(shape).clone()
        elif "norm" in name or "gn_out" in name or "_fcs.1" in name:
            value = 0.1 * value + float(name.endswith("weight"))
        elif name.endswith("offset_generator.0.bias"):
            value = 0.4 * value - torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).repeat(shape[0] // 3)
        elif name.endswith("fc_reg.bias"):
            value = 0.1 * value - torch.tensor([0.0, 0.0, 1.0, 0.0], dtype=torch.float64)
        elif name.endswith("iof_tau"):
            value = 0.3 * value.abs()
        elif name.endswith("fc_cls.bias"):
            value = 0.1 * value - 2.0
        elif "init_content" not in name:
            value = 0.5 * value / math.sqrt(value[0].numel())
        state[name] = value.to(dtype)
    return state


def box_of(p: Tensor) -> Tensor:
    """(x, y, z, r) to xyxy, in pixels."""
    w, h = 2 ** (p[..., 2] - p[..., 3] / 2), 2 ** (p[..., 2] + p[..., 3] / 2)
    return torch.stack([p[..., 0] - w / 2, p[..., 1] - h / 2, p[..., 0] + w / 2, p[..., 1] + h / 2], -1)


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def _norm(state: State, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def _code(p: Tensor, channels: int) -> Tensor:
    """Sines and cosines in turn of x / 1000, y / 1000, z, r."""
    feats = channels // 4
    parts = []
    for u in (p[..., 0] / 1000, p[..., 1] / 1000, p[..., 2], p[..., 3]):
        for k in range(feats // 2):
            angle = u * 10000.0 ** (-2 * k / feats)
            parts += [angle.sin(), angle.cos()]
    return torch.stack(parts, -1)


def _attend(state: State, p: str, d: Dims, y: Tensor, ref: Tensor) -> Tensor:
    """One image: y (N, C) plus what its queries tell each other."""
    box = box_of(ref)
    low, high = torch.maximum(box[:, None, :2], box[None, :, :2]), torch.minimum(box[:, None, 2:], box[None, :, 2:])
    share = (high - low).clamp(min=0).prod(-1) / (box[:, 2:] - box[:, :2]).prod(-1)[:, None]
    qkv = y @ state[f"{p}.attn.in_proj_weight"].T + state[f"{p}.attn.in_proj_bias"]
    heads = []
    for h, (q, k, v) in enumerate(zip(*(t.chunk(d.heads, -1) for t in qkv.chunk(3, -1)), strict=True)):
        tau = state[p.removesuffix("attention") + "iof_tau"][h]
        heads.append((q @ k.T / math.sqrt(q.shape[-1]) + tau * (share + 1e-7).log()).softmax(-1) @ v)
    return y + _linear(state, f"{p}.attn.out_proj", torch.cat(heads, -1))


def _sample(maps: list[Tensor], d: Dims, ref: Tensor, offset: Tensor) -> Tensor:
    """One image: maps (C, H, W), offsets (N, G, P, 3) -> (N, G, P, C / G)."""
    box = box_of(ref)[:, None, None]
    x = ref[:, None, None, 0] + offset[..., 0] * (box[..., 2] - box[..., 0])
    y = ref[:, None, None, 1] + offset[..., 1] * (box[..., 3] - box[..., 1])
    z = ref[:, None, None, 2] + offset[..., 2]
    weight = torch.stack([-((z - math.log2(s)) ** 2) / 2 for s in STRIDES], -1).softmax(-1)
    groups = []
    for g in range(d.groups):
        total = 0
        for level, (m, s) in enumerate(zip(maps, STRIDES, strict=True)):
            part = m.chunk(d.groups, 0)[g][None]
            at = torch.stack([x[:, g] / (s * m.shape[2]), y[:, g] / (s * m.shape[1])], -1) * 2 - 1
            sampled = F.grid_sample(part, at[None], align_corners=False)[0].permute(1, 2, 0)
            total = total + weight[:, g, :, level, None] * sampled
        groups.append(total)
    return torch.stack(groups, 1)


def _mix(state: State, p: str, d: Dims, x: Tensor, q: Tensor) -> Tensor:
    """One image: sampled (N, G, P, C / G) and queries (N, C) -> (N, C)."""
    made = _linear(state, f"{p}.parameter_generator.0", q).chunk(d.groups, -1)
    width, out = d.channels // d.groups, []
    for g in range(d.groups):
        m = made[g][:, : width * width].reshape(-1, width, width)
        s = made[g][:, width * width :].reshape(-1, d.out_points, d.in_points)
        y = F.relu(F.layer_norm(x[:, g] @ m, (d.in_points, width)))
        out.append(F.relu(F.layer_norm(s @ y, (d.out_points, width))).flatten(1))
    return _linear(state, f"{p}.out_proj", torch.cat(out, -1))


def forward(
    state: State, d: Dims, features: list[Tensor], sizes: list[tuple[int, int]], pads: list[Tensor] | None = None
) -> list[tuple[Tensor, Tensor]]:
    """Logits (B, N, K) and boxes (B, N, 4; xyxy in pixels) of each stage; ``pads`` (B, H, W) are set to zero."""
    maps = []
    for i, f in enumerate(features):
        conv = f"neck.lateral_convs.{i}.conv"
        m = F.conv2d(f, state[f"{conv}.weight"], state[f"{conv}.bias"])
        m = F.group_norm(m, 32, state["neck.gn_out.weight"], state["neck.gn_out.bias"])
        maps.append(m if pads is None else m.masked_fill(pads[i][:, None], 0.0))
    images = [_image(state, d, [m[b] for m in maps], size) for b, size in enumerate(sizes)]
    return [tuple(torch.stack(x) for x in zip(*stage, strict=True)) for stage in zip(*images, strict=True)]


def _image(state: State, d: Dims, maps: list[Tensor], size: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
    h, w = size
    q = F.layer_norm(state["rpn_head.init_content_features.weight"], (d.channels,))
    first = [w / 2, h / 2, math.log2(math.sqrt(w * h)), math.log2(h / w)]
    ref, found = q.new_tensor([first]).expand(d.queries, 4), []
    for s in range(d.stages):
        p = f"roi_head.bbox_head.{s}"
        mixing = f"{p}.sampling_n_mixing"
        q = _norm(state, f"{p}.attention_norm", _attend(state, f"{p}.attention", d, q + _code(ref, d.channels), ref))
        offset = _linear(state, f"{mixing}.sampling_offset_generator.0", q).view(-1, d.groups, d.in_points, 3)
        x = _sample(maps, d, ref, offset)
        q = _norm(state, f"{mixing}.norm", q + _mix(state, f"{mixing}.adaptive_mixing", d, x, q))
        hidden = F.relu(_linear(state, f"{p}.ffn.layers.0.0", q))
        q = _norm(state, f"{p}.ffn_norm", q + _linear(state, f"{p}.ffn.layers.1", hidden))
        heads = []
        for kind in ("cls", "reg"):
            tower = F.relu(_norm(state, f"{p}.{kind}_fcs.1", _linear(state, f"{p}.{kind}_fcs.0", q)))
            heads.append(_linear(state, f"{p}.fc_{kind}", tower))
        logits, delta = heads
        scale = 2 ** ref[:, 2:3]
        new = torch.cat([ref[:, :2] + delta[:, :2] * scale, ref[:, 2:] + delta[:, 2:]], -1)
        found.append((logits, box_of(new)))
        ref = new.detach()
    return found


def _giou(a: Tensor, b: Tensor) -> Tensor:
    """Of broadcast xyxy boxes in pixels."""
    inter = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - inter
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
    return inter / union - (hull - union) / hull


def losses(
    found: list[tuple[Tensor, Tensor]], sizes: list[tuple[int, int]], labels: list[Tensor], boxes: list[Tensor]
) -> list[dict[str, Tensor]]:
    """Weighted losses of each stage; ``boxes`` are xyxy in pixels."""
    count, out = max(sum(map(len, labels)), 1), []
    for logits, predicted in found:
        loss = {"class": logits.sum() * 0, "bbox": predicted.sum() * 0, "giou": predicted.sum() * 0}
        for i, (h, w) in enumerate(sizes):
            x, box, gt = logits[i], predicted[i], boxes[i]
            s, unit = x.sigmoid(), box.new_tensor([w, h, w, h])
            gain = 0.25 * (1 - s) ** 2 * -(s + 1e-12).log() - 0.75 * s**2 * -(1 - s + 1e-12).log()
            l1 = ((box[:, None] - gt[None]) / unit).abs().sum(-1)
            cost = 2 * gain[:, labels[i]] + 5 * l1 - 2 * _giou(box[:, None], gt[None])
            query, obj = linear_sum_assignment(cost.detach().numpy())
            target = torch.zeros_like(x)
            target[query, labels[i][obj]] = 1.0
            weight = torch.where(target > 0, 0.25 * (1 - s) ** 2, 0.75 * s**2)
            focal = F.binary_cross_entropy_with_logits(x, target, reduction="none") * weight
            loss["class"] = loss["class"] + 2 * focal.sum() / count
            loss["bbox"] = loss["bbox"] + 5 * l1[query, obj].sum() / count
            loss["giou"] = loss["giou"] + 2 * (1 - _giou(box[query], gt[obj])).sum() / count
        out.append(loss)
    return out
