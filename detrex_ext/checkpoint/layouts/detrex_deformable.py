"""detrex's Deformable-DETR: plain, box refinement, two-stage; its DINO has the same names and a few more.

detrex registers the heads of the decoder at the top of the model and, where the decoder refines boxes, a second
time inside it; a shared head appears once per layer. Its files hold every name; ours hold each tensor once. Our
two-stage source is ``queries``, or ``queries.source`` where denoising is around it.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from .base import Layout, Names, State

# theirs -> ours, the first prefix that fits; names that fit none are the same in both (backbone, neck)
_PREFIXES = (
    ("transformer.level_embeds", "encoder.level_embeds"),
    ("transformer.encoder.", "encoder."),
    ("transformer.decoder.", "decoder."),
    ("transformer.reference_points.", "queries.reference_points."),
    ("transformer.enc_output.", "queries.enc_output."),
    ("transformer.enc_output_norm.", "queries.enc_output_norm."),
    ("transformer.pos_trans.", "queries.pos_trans."),
    ("transformer.pos_trans_norm.", "queries.pos_trans_norm."),
    ("transformer.tgt_embed.", "queries.tgt_embed."),
    ("query_embedding.", "queries.query_embedding."),
    ("label_enc.", "queries.label_enc."),
)
_SOURCE, _LABELS = "queries.source.", "queries.label_enc."
_HEAD = re.compile(r"^(?:transformer\.decoder\.|decoder\.)?(class_embed|bbox_embed)\.(\d+)\.(.+)$")
_LAYER = re.compile(r"^(?:transformer\.)?decoder\.layers\.(\d+)\.")


def _num_layers(keys: Collection[str]) -> int:
    return 1 + max((int(m[1]) for k in keys if (m := _LAYER.match(k))), default=-1)


def _recognize(keys: Collection[str]) -> bool:
    deformable = any(k.startswith("transformer.decoder.layers.0.attentions.1.sampling_offsets.") for k in keys)
    return deformable and "transformer.decoder.norm.weight" not in set(keys)


def _names(keys: Collection[str], model_keys: Collection[str]) -> Names:
    layers, wanted = _num_layers(keys), set(model_keys)
    names: Names = {}
    for key in keys:
        head = _HEAD.match(key)
        if head:
            kind, index, rest = head[1], int(head[2]), head[3]
            ours = f"queries.{kind}.{rest}" if index == layers else f"decoder.{kind}.{index}.{rest}"
            shared = f"decoder.{kind}.0.{rest}"
            names[key] = shared if ours not in wanted and index < layers and shared in wanted else ours
            continue
        names[key] = next((new + key[len(old) :] for old, new in _PREFIXES if key.startswith(old)), key)
    if any(k.startswith(_SOURCE) for k in wanted):
        return {key: _inside(ours) for key, ours in names.items()}
    # a model without denoising leaves the label embedding out
    return {key: None if ours.startswith(_LABELS) else ours for key, ours in names.items()}


def _inside(name: str) -> str:
    """The name in a model whose two-stage source is inside the denoising one."""
    inner = name.startswith("queries.") and not name.startswith(_LABELS)
    return _SOURCE + name.removeprefix("queries.") if inner else name


def _write(state: State) -> State:
    layers = _num_layers(state)
    state = {key.replace(_SOURCE, "queries."): value for key, value in state.items()}
    refine = sum(k.startswith("decoder.bbox_embed.") and k.endswith(".layers.0.weight") for k in state) > 1
    two_stage = "queries.enc_output.weight" in state
    out: State = {}
    for key, value in state.items():
        kinds = (k for k in ("class_embed", "bbox_embed") if key.startswith((f"decoder.{k}.", f"queries.{k}.")))
        kind = next(kinds, "")
        if not kind:
            out[next((old + key[len(new) :] for old, new in _PREFIXES if key.startswith(new)), key)] = value
            continue
        inside = two_stage or (refine and kind == "bbox_embed")  # also registered inside the decoder
        if key.startswith("queries."):
            indices, rest = [layers], key[len(f"queries.{kind}.") :]
        else:
            index, rest = key[len(f"decoder.{kind}.") :].split(".", 1)
            own = f"decoder.{kind}.1.{rest}" in state
            indices = [int(index)] if own or layers == 1 else list(range(layers))
        for i in indices:
            out[f"{kind}.{i}.{rest}"] = value
            if inside:
                out[f"transformer.decoder.{kind}.{i}.{rest}"] = value
    return out


def _fits(keys: Collection[str]) -> bool:
    known = set(keys)
    deformable = "decoder.layers.0.attentions.1.sampling_offsets.weight" in known
    return deformable and "decoder.norm.weight" not in known


DETREX_DEFORMABLE = Layout(
    "detrex Deformable-DETR", recognize=_recognize, rename=_names, write=_write, family="detrex", fits=_fits
)
