"""The authors' own files of DETR: names of layers, and 91 category ids and "no object" instead of 80 classes."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from ..coco import COCO_IDS
from .base import Layout, Sliced, State
from .detrex_detr import DETREX_DETR
from .official import choose_rows, through_detrex
from .official_parts import LAYER_PARTS, layer_part

_PARTS = {
    "encoder": {**LAYER_PARTS["encoder"], "self_attn.": "attentions.0.attn."},
    "decoder": {
        **{"self_attn.": "attentions.0.attn.", "multihead_attn.": "attentions.1.attn."},
        **{**LAYER_PARTS["decoder"], "norm1.": "norms.0.", "norm2.": "norms.1."},
    },
}
_NORM = "transformer.decoder.norm."


def _to_detrex(key: str, keys: Collection[str]) -> str:
    return layer_part(key, _PARTS).replace(_NORM, "transformer.decoder.post_norm_layer.")


def _adapt(state: State, own: Mapping[str, Tensor]) -> list[Sliced]:
    heads = [key for key in state if key.startswith("decoder.class_embed.") and len(state[key]) == 92]
    done = [choose_rows(state, own, key, (*COCO_IDS, 91), "of COCO's category ids, and no object") for key in heads]
    return [one for found in done for one in found]


OFFICIAL_DETR = Layout(
    "official DETR",
    recognize=lambda keys: "transformer.decoder.layers.0.multihead_attn.in_proj_weight" in set(keys),
    rename=through_detrex(_to_detrex, DETREX_DETR),
    adapt=_adapt,
)
