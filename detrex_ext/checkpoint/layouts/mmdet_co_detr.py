"""Co-DETR's own files: mmdetection's two-stage Deformable-DETR, or its DINO, in ``query_head``.

What else they hold acts in training alone and is left out: the proposal network, ATSS's and the regions' heads, and the
projections of their positives. Those of the overlay ``co`` have other shapes (see ``projects/co_detr``).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace

from .base import Names
from .detrex_deformable import DETREX_DEFORMABLE
from .mmcv_twins import without_twins
from .mmdet_deformable import MMDET_DEFORMABLE, to_detrex
from .official import through_detrex

_HEAD = "query_head."
_IN_TRAINING = re.compile(
    r"^(?:rpn_head\.|roi_head\.\d+\.|bbox_head\.\d+\.|query_head\.downsample\."
    r"|query_head\.transformer\.(?:aux_pos_trans|aux_pos_trans_norm|pos_feats_trans|pos_feats_norm|head_pos_embed)\.)"
)
_CONTENT = (_HEAD + "transformer.query_embed.weight", _HEAD + "query_embedding.weight")
_POSITION = re.compile(r"^transformer\.decoder\.ref_point_head\.(\d)\.")  # a linear layer, an activation, ...


def _to_detrex(key: str, keys: Collection[str]) -> str:
    if key in _CONTENT and _HEAD + "transformer.enc_output.weight" in keys:
        return "transformer.tgt_embed.weight"
    key = key.removeprefix(_HEAD).replace("label_embedding.", "label_enc.")
    key = _POSITION.sub(lambda m: f"transformer.decoder.ref_point_head.layers.{int(m[1]) // 2}.", key)
    return to_detrex(key, keys)


def _rename(keys: Collection[str], model_keys: Collection[str]) -> Names:
    kept = [key for key in keys if not _IN_TRAINING.match(key)]
    return {**dict.fromkeys(keys), **_RENAME(set(kept), model_keys)}


_RENAME = through_detrex(_to_detrex, DETREX_DEFORMABLE)
MMDET_CO_DETR = replace(
    MMDET_DEFORMABLE,
    name="Co-DETR",
    recognize=lambda keys: {"query_head.transformer.level_embeds", "query_head.cls_branches.0.weight"} <= set(keys),
    rename=without_twins(_rename),
)
