"""The authors' TSP-RCNN (detectron2 of 2020)."""

from __future__ import annotations

from collections.abc import Collection

from .base import Layout, Names, State
from .tsp import BACKBONE, our_names, pyramid, renamed, transformer

_BOXES = "roi_heads.box_head."
_ANCHORS = "proposal_generator.anchor_generator.cell_anchors."  # a buffer of theirs, in files of that time
_CONVS = 16


def _proposals(theirs: str = "proposal_generator.rpn_head.", ours: str = "encoder.rpn.") -> dict[str, str]:
    towers = {"obj": "class", "anchor": "box"}
    convs = {
        f"{theirs}{their}_conv.{i}.conv.": f"{ours}{our}_tower.{i}."
        for their, our in towers.items()
        for i in range(_CONVS)
    }
    norms = {f"{theirs}{their}_bn_list.": f"{ours}{our}_norms." for their, our in towers.items()}
    heads = {f"{theirs}objectness_logits.": f"{ours}objectness.", f"{theirs}anchor_deltas.": f"{ours}deltas."}
    return {**convs, **norms, **heads}


_TABLE = {
    **BACKBONE,
    **pyramid(2),
    **_proposals(),
    f"{_BOXES}input_proj.": "encoder.enc_proj.",
    f"{_BOXES}post_input_proj_norm.": "encoder.enc_proj_norm.",
    f"{_BOXES}dec_pos_embed_proj.": "encoder.pos_proj.",
    **transformer(f"{_BOXES}transformer_encoder.", "encoder.encoder."),
    "roi_heads.box_predictor.cls_score.": "decoder.class_embed.",
    "roi_heads.box_predictor.bbox_pred.": "decoder.bbox_embed.",
}


def _names(keys: Collection[str], model_keys: Collection[str]) -> Names:
    names = our_names(keys, model_keys, _TABLE)
    return {key: None if key.startswith(_ANCHORS) else ours for key, ours in names.items()}


def _write(state: State) -> State:
    back = {ours: theirs for theirs, ours in _TABLE.items()}
    return {renamed(key, back): value for key, value in state.items()}


TSP_RCNN = Layout(
    "TSP-RCNN",
    recognize=lambda keys: {
        "proposal_generator.rpn_head.objectness_logits.weight",
        f"{_BOXES}transformer_encoder.norm.weight",
    }
    <= set(keys),
    rename=_names,
    write=_write,
    family="tsp",
    fits=lambda keys: {"encoder.rpn.objectness.weight", "encoder.enc_proj_norm.weight"} <= set(keys),
)
