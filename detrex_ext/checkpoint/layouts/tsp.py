"""The authors' TSP (detectron2 of 2020): TSP-FCOS, and what TSP-RCNN has in common with it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import torch

from .base import Layout, Names, State

# theirs -> ours; {} is a number
_LAYER = {
    "self_attn.": "attentions.0.attn.",
    "linear1.": "ffns.0.layers.0.0.",
    "linear2.": "ffns.0.layers.1.",
    "norm1.": "norms.0.",
    "norm2.": "norms.1.",
}
BACKBONE = {
    "backbone.bottom_up.": "backbone.",
    **{
        f"backbone.top_block.p{6 + i}.{theirs}.": f"neck.extra_blocks.levels.{i}.{ours}."
        for i in range(2)
        for theirs, ours in (("conv", "conv"), ("bn", "norm"))
    },
}
FCOS = {
    "fcos_head.cls_tower.": "encoder.class_tower.",
    "fcos_head.bbox_tower.": "encoder.box_tower.",
    "fcos_head.cls_logits.": "encoder.class_embed.",
    "enc_proj.": "encoder.enc_proj.",
    "post_enc_proj_norm.": "encoder.enc_proj_norm.",
    "pyramid_position_embedding": "encoder.level_embeds",
    "cls_logits.": "decoder.class_embed.",
    "bbox_pred.": "decoder.bbox_embed.",
    "ctrness.": "decoder.centerness.",
    "scales": "decoder.scales",
}
# buffers of theirs: channels in the order blue, green, red
PIXELS = {"pixel_mean": (103.53, 116.28, 123.675), "pixel_std": (1.0, 1.0, 1.0)}
_DEFORMED = re.compile(r"^(encoder\.(?:class|box)_tower\.\d+\.)")


def pyramid(first: int) -> dict[str, str]:
    """Names of a pyramid whose finest level is P``first``, up to P5."""
    parts = {"lateral": "inner_blocks", "output": "layer_blocks"}
    return {
        f"backbone.fpn_{theirs}{level}.": f"neck.{ours}.{level - first}.0."
        for level in range(first, 6)
        for theirs, ours in parts.items()
    }


def transformer(theirs: str, ours: str, layers: int = 32) -> dict[str, str]:
    """Names of a set encoder under two prefixes."""
    names = {
        f"{theirs}layers.{i}.{their}": f"{ours}layers.{i}.{our}"
        for i in range(layers)
        for their, our in _LAYER.items()
    }
    return {**names, f"{theirs}norm.": f"{ours}norm."}


def renamed(key: str, table: Mapping[str, str]) -> str:
    """A key by a table of beginnings; what none begins stays."""
    found = next((theirs for theirs in table if key.startswith(theirs)), None)
    return key if found is None else table[found] + key[len(found) :]


def our_names(keys: Collection[str], model_keys: Collection[str], table: Mapping[str, str]) -> Names:
    """Our key of each of theirs; their buffers, and counters of norms that ours has not, are left out."""
    known, names = set(model_keys), {}
    for key in keys:
        ours = renamed(key, table)
        counter = ours.endswith("num_batches_tracked") and ours not in known
        names[key] = None if key in PIXELS or counter else ours
    return names


def their_state(state: State, table: Mapping[str, str]) -> State:
    """Our weights by their names, with their buffers."""
    back = {ours: theirs for theirs, ours in table.items()}
    pixels = {key: torch.tensor(values)[:, None, None] for key, values in PIXELS.items()}
    return {**pixels, **{renamed(key, back): value for key, value in state.items()}}


_TABLE = {**BACKBONE, **pyramid(3), **FCOS, **transformer("transformer_encoder.", "encoder.encoder.")}


def _names(keys: Collection[str], model_keys: Collection[str]) -> Names:
    # their deformable convolution is a part of its own beside its offsets
    found = our_names(keys, model_keys, _TABLE)
    return {key: ours and re.sub(r"(_tower\.\d+\.)conv\.", r"\1", ours) for key, ours in found.items()}


def _write(state: State) -> State:
    deformed = {m[1] for key in state if ".offset." in key and (m := _DEFORMED.match(key))}
    inner = {
        key: key.replace(m[1], f"{m[1]}conv.")
        for key in state
        if (m := _DEFORMED.match(key)) and m[1] in deformed and ".offset." not in key
    }
    return their_state({inner.get(key, key): value for key, value in state.items()}, _TABLE)


TSP_FCOS = Layout(
    "TSP-FCOS",
    recognize=lambda keys: {"fcos_head.cls_logits.weight", "transformer_encoder.norm.weight"} <= set(keys),
    rename=_names,
    write=_write,
    family="tsp",
    fits=lambda keys: {"encoder.box_tower.0.weight", "decoder.scales"} <= set(keys),
)
