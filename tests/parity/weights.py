"""State dicts in detrex's layout: names, shapes, aliases, random values; and how our names map to them."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from .reference import Dims
from .reference_backbone import BLOCKS


def _linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _layer(name: str, dims: Dims, decoder: bool) -> dict[str, tuple[int, ...]]:
    c, samples = dims.channels, dims.heads * dims.levels * dims.points
    found = {}
    sampling = f"{name}.attentions.{int(decoder)}"
    if decoder:
        attn = f"{name}.attentions.0.attn"
        found |= {f"{attn}.in_proj_weight": (3 * c, c), f"{attn}.in_proj_bias": (3 * c,)}
        found |= _linear(f"{attn}.out_proj", c, c)
    found |= _linear(f"{sampling}.sampling_offsets", 2 * samples, c)
    found |= _linear(f"{sampling}.attention_weights", samples, c)
    found |= _linear(f"{sampling}.value_proj", c, c) | _linear(f"{sampling}.output_proj", c, c)
    found |= _linear(f"{name}.ffns.0.layers.0.0", dims.ffn, c) | _linear(f"{name}.ffns.0.layers.1", c, dims.ffn)
    for i in range(2 + decoder):
        found |= _norm(f"{name}.norms.{i}", c)
    return found


def model_shapes(dims: Dims) -> dict[str, tuple[int, ...]]:
    """Name -> shape of everything but the backbone, aliases included."""
    c = dims.channels
    found: dict[str, tuple[int, ...]] = {"transformer.level_embeds": (dims.levels, c)}
    for level in range(dims.levels):
        extra = level - len(dims.feature_channels)
        name = f"neck.convs.{level}" if extra < 0 else f"neck.extra_convs.{extra}"
        width = dims.feature_channels[min(level, len(dims.feature_channels) - 1)] if extra <= 0 else c
        kernel = 1 if extra < 0 else 3
        found |= {f"{name}.conv.weight": (c, width, kernel, kernel), f"{name}.conv.bias": (c,)}
        found |= _norm(f"{name}.norm", c)
    for i in range(dims.encoder_layers):
        found |= _layer(f"transformer.encoder.layers.{i}", dims, False)
    for i in range(dims.decoder_layers):
        found |= _layer(f"transformer.decoder.layers.{i}", dims, True)
    if dims.two_stage:
        found |= _linear("transformer.enc_output", c, c) | _norm("transformer.enc_output_norm", c)
        if not dims.dino:
            found |= _linear("transformer.pos_trans", 2 * c, 2 * c) | _norm("transformer.pos_trans_norm", 2 * c)
    else:
        found |= {"query_embedding.weight": (dims.queries, 2 * c)} | _linear("transformer.reference_points", 2, c)
    if dims.dino:
        found |= {"transformer.tgt_embed.weight": (dims.queries, c), "label_enc.weight": (dims.classes, c)}
        found |= _norm("transformer.decoder.norm", c)
        head = "transformer.decoder.ref_point_head.layers"
        found |= _linear(f"{head}.0", c, 2 * c) | _linear(f"{head}.1", c, c)
    for i in range(dims.head_count):
        box = _linear(f"bbox_embed.{i}.layers.0", c, c) | _linear(f"bbox_embed.{i}.layers.1", c, c)
        box |= _linear(f"bbox_embed.{i}.layers.2", 4, c)
        label = _linear(f"class_embed.{i}", dims.classes, c)
        found |= box | label
        if dims.refine:
            found |= {f"transformer.decoder.{k}": v for k, v in box.items()}
        if dims.two_stage:
            found |= {f"transformer.decoder.{k}": v for k, v in label.items()}
    return found


def backbone_shapes() -> dict[str, tuple[int, ...]]:
    """Name -> shape of a ResNet-50."""

    def conv(name: str, out: int, width: int, kernel: int) -> dict[str, tuple[int, ...]]:
        parts = {f"{name}.norm.{k}": (out,) for k in ("weight", "bias", "running_mean", "running_var")}
        return {f"{name}.weight": (out, width, kernel, kernel)} | parts

    found = conv("backbone.stem.conv1", 64, 3, 7)
    width = 64
    for stage, (name, count) in enumerate(BLOCKS.items()):
        inner = 64 * 2**stage
        for i in range(count):
            block = f"backbone.{name}.{i}"
            if i == 0:
                found |= conv(f"{block}.shortcut", 4 * inner, width, 1)
            found |= conv(f"{block}.conv1", inner, width, 1) | conv(f"{block}.conv2", inner, inner, 3)
            found |= conv(f"{block}.conv3", 4 * inner, inner, 1)
            width = 4 * inner
    return found


def canonical(name: str, refine: bool) -> str:
    """The one name under which aliases share a tensor."""
    if re.match(r"transformer\.decoder\.(class|bbox)_embed\.", name):
        name = name.removeprefix("transformer.decoder.")
    name = name.replace(".ffns.0.layers.0.1.", ".ffns.0.activation.")
    return name if refine else re.sub(r"^(class|bbox)_embed\.\d+", r"\1_embed.0", name)


_EMBEDDINGS = (
    "query_embed.", "query_embedding.", "anchor_box_embed.", "label_enc.",
    "transformer.level_embeds", "transformer.tgt_embed.", "transformer.patterns.",
)  # fmt: skip
_GAINS = {"backbone": 2.0, "sampling_offsets": 0.1, "class_embed": 0.3}


def random_state(
    shapes: dict[str, tuple[int, ...]], refine: bool, seed: int = 0, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Weights away from every degenerate start (no zero head, no identity norm); aliases are one tensor."""
    generator = torch.Generator().manual_seed(seed)
    unique = {canonical(name, refine): tuple(shape) for name, shape in shapes.items()}
    values = {}
    for name in sorted(unique):
        shape = unique[name]
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        norm = re.search(r"\bnorms?\b|_norm(_layer)?\b", name) is not None
        if name == "criterion.empty_weight":
            value = torch.ones(shape, dtype=torch.float64)
            value[-1] = 0.1
        elif name.endswith("running_var"):
            value = 0.5 + noise.abs()
        elif name.endswith("conv3.norm.weight"):
            value = 0.3 + 0.05 * noise
        elif norm and name.endswith("weight"):
            value = 1 + 0.1 * noise
        elif name.endswith("sampling_offsets.bias"):
            value = noise
        elif len(shape) < 2:
            value = 0.1 * noise - (3.0 if name.startswith("class_embed") else 0.0)
        elif name.startswith(_EMBEDDINGS):
            value = noise
        else:
            gain = next((g for part, g in _GAINS.items() if part in name), 0.7)
            value = noise * (gain / noise[0].numel()) ** 0.5
        values[name] = value.to(torch.float32).to(dtype)
    return {name: values[canonical(name, refine)] for name in shapes}


_RULES = (
    (r"^encoder\.level_embeds$", "transformer.level_embeds"),
    (r"^encoder\.", "transformer.encoder."),
    (r"^decoder\.(class|bbox)_embed\.", r"\1_embed."),
    (r"^decoder\.", "transformer.decoder."),
    (r"^queries\.(query_embedding|label_enc|query_embed|anchor_box_embed)\b", r"\1"),
    (r"^queries\.patterns\b", "transformer.patterns"),
    (r"^neck\.input_proj\b", "input_proj"),
    (r"^queries\.(reference_points|(enc_output|pos_trans)(_norm)?|tgt_embed)\b", r"transformer.\1"),
)


def detrex_name(name: str, decoder_layers: int) -> str:
    """Our parameter name -> detrex's (its first alias at the top level)."""
    name = name.replace("queries.source.", "queries.")
    name = re.sub(r"^queries\.(class|bbox)_embed\b", rf"\1_embed.{decoder_layers}", name)
    for pattern, replacement in _RULES:
        name, count = re.subn(pattern, replacement, name)
        if count:
            break
    return name
