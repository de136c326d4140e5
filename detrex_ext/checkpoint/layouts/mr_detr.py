"""Mr. DETR's own files: detrex's two-stage Deformable-DETR, and what its further routes have of their own.

A trap: in a decoder layer the norm after self-attention lies within the attention, and ``norms.0`` is the next one.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace

from detrex_ext.structures import TRAINING_ONLY

from .base import Names
from .detrex_deformable import DETREX_DEFORMABLE

_OWN = f"{TRAINING_ONLY}.mr."
_LAYER = re.compile(r"^transformer\.decoder\.layers\.(\d+)\.")
_HEAD = re.compile(r"^transformer\.decoder\.(class|bbox)_embed_(?:o2m_encoder|enc_o2m)\.")
# of a layer: theirs -> ours, "{}" = its number; the first prefix that fits
_PARTS = (
    ("attentions.0.instruction_o2m.weight", _OWN + "tokens.{}"),
    ("attentions.0.instruction_o2m_pos.weight", _OWN + "places.{}"),
    ("attentions.0.norm_o2m.", _OWN + "norms.{}."),
    ("ffns.0.layers.0.linear.linear_sep.", _OWN + "ffns.{}.layers.0.0."),
    ("ffns.0.layers.1.linear_sep.", _OWN + "ffns.{}.layers.1."),
    ("ffns.0.layers.0.linear.linear.", "transformer.decoder.layers.{}.ffns.0.layers.0.0."),
    ("ffns.0.layers.1.linear.", "transformer.decoder.layers.{}.ffns.0.layers.1."),
    ("attentions.0.norm_o2o.", "transformer.decoder.layers.{}.norms.0."),
    ("norms.0.", "transformer.decoder.layers.{}.norms.1."),
    ("norms.1.", "transformer.decoder.layers.{}.norms.2."),
)


def _to_detrex(key: str) -> str:
    if head := _HEAD.match(key):
        return f"{_OWN}heads.{head[1]}_embed.{key[head.end() :]}"
    if layer := _LAYER.match(key):
        rest = key[layer.end() :]
        for theirs, ours in _PARTS:
            if rest.startswith(theirs):
                return ours.format(layer[1]) + rest[len(theirs) :]
    return "transformer.tgt_embed.weight" if key == "query_embedding.weight" else key


def _rename(keys: Collection[str], model_keys: Collection[str]) -> Names:
    theirs = {key: _to_detrex(key) for key in keys}
    ours = DETREX_DEFORMABLE.rename(theirs.values(), model_keys)
    return {key: ours[name] for key, name in theirs.items()}


MR_DETR = replace(
    DETREX_DEFORMABLE,
    name="Mr. DETR",
    recognize=lambda keys: "transformer.decoder.layers.0.attentions.0.instruction_o2m.weight" in set(keys),
    rename=_rename,
    write=None,
    family="",
    fits=lambda keys: False,
)
