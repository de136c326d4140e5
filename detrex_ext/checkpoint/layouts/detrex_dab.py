"""detrex's DETR-like hosts of one map: DAB-DETR here, the parts that DETR shares with it for ``detrex_detr``.

detrex registers the box head at the top of the model and inside the decoder, and the learned slope of an FFN as
``activation`` and as ``layers.0.1``. Its files hold every name, an averaged state one of each; ours hold each tensor
once. Its dilated models have torchvision's backbone under torchvision's names, which is family ``detrex_dc5``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from .base import Layout, Names, State
from .resnet import torchvision_name, torchvision_names

# theirs -> ours, the first prefix that fits; names that fit none are the same in both (backbone)
_PREFIXES = (
    ("transformer.encoder.", "encoder."),
    ("transformer.decoder.", "decoder."),
    ("transformer.patterns.", "queries.patterns."),
    ("anchor_box_embed.", "queries.anchor_box_embed."),
    ("query_embed.", "queries.query_embed."),
    ("input_proj.", "neck.input_proj."),
    ("class_embed.", "decoder.class_embed."),
    ("bbox_embed.", "decoder.bbox_embed."),
)
_SLOPES = (".ffns.0.layers.0.1.", ".ffns.0.activation.")
_BACK = sorted(_PREFIXES, key=lambda pair: -len(pair[1]))  # the heads before the decoder they are in
_BODY = "backbone.body."


def names(keys: Collection[str], model_keys: Collection[str]) -> Names:
    """Our name of each of detrex's."""
    body = torchvision_names(keys, model_keys) if any(k.startswith(_BODY) for k in keys) else {}
    found: Names = {}
    for key in keys:
        if key.startswith(_BODY):
            found[key] = body[key]
        else:
            ours = next((new + key[len(old) :] for old, new in _PREFIXES if key.startswith(old)), key)
            found[key] = ours.replace(*_SLOPES)
    return found


def write(state: State) -> State:
    """Our tensors under the names of detrex, without the aliases of the box head."""
    out: State = {}
    for key, value in state.items():
        # denoising is training only, and detrex's of another kind
        key = key.replace("queries.source.", "queries.")
        if key == "queries.label_enc.weight":
            continue
        theirs = next((old + key[len(new) :] for old, new in _BACK if key.startswith(new)), key)
        out[theirs] = value
        if _SLOPES[1] in theirs:
            out[theirs.replace(_SLOPES[1], _SLOPES[0])] = value
    return out


def with_torchvision_backbone(state: State) -> State:
    """The same state with the backbone's names of detrex's dilated models."""
    return {
        torchvision_name(key).replace("backbone.", _BODY, 1) if key.startswith("backbone.") else key: value
        for key, value in state.items()
    }


def _write(state: State) -> State:
    out = write(state)
    heads = {k: v for k, v in out.items() if k.startswith("bbox_embed.")}
    return {**out, **{f"transformer.decoder.{k}": v for k, v in heads.items()}}


DETREX_DAB = Layout(
    "detrex DAB-DETR",
    recognize=lambda keys: "anchor_box_embed.weight" in set(keys),
    rename=names,
    write=_write,
    family="detrex",
    fits=lambda keys: "decoder.ref_anchor_head.layers.0.weight" in set(keys),
)
DETREX_DAB_DC5 = replace(  # only written; read by the one above
    DETREX_DAB,
    recognize=lambda keys: False,
    write=lambda state: with_torchvision_backbone(_write(state)),
    family="detrex_dc5",
)
