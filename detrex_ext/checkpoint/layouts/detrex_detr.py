"""detrex's DETR: each tensor under one name, and the class weights of the criterion among them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from .base import Layout, Names, State
from .detrex_dab import names, with_torchvision_backbone, write

_CLASS_WEIGHTS = "criterion.empty_weight"
_EOS = 0.1  # the published weight of "no object", which no model holds: it is the loss's


def _names(keys: Collection[str], model_keys: Collection[str]) -> Names:
    return {**names(keys, model_keys), **({_CLASS_WEIGHTS: None} if _CLASS_WEIGHTS in set(keys) else {})}


def _write(state: State) -> State:
    out = write(state)
    weights = out["class_embed.bias"].new_ones(len(out["class_embed.bias"]))
    weights[-1] = _EOS
    return {**out, _CLASS_WEIGHTS: weights}


DETREX_DETR = Layout(
    "detrex DETR",
    recognize=lambda keys: {"query_embed.weight", "transformer.decoder.post_norm_layer.weight"} <= set(keys),
    rename=_names,
    write=_write,
    family="detrex",
    fits=lambda keys: {"queries.query_embed.weight", "decoder.post_norm_layer.weight"} <= set(keys),
)
DETREX_DETR_DC5 = replace(  # only written; read by the one above
    DETREX_DETR,
    recognize=lambda keys: False,
    write=lambda state: with_torchvision_backbone(_write(state)),
    family="detrex_dc5",
)
