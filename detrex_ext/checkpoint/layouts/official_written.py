"""Weights of the deformable hosts under their authors' names, the reverse of ``official``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor

from ..coco import COCO_IDS
from .base import State
from .detrex_deformable import DETREX_DEFORMABLE
from .official_parts import LAYER_PARTS, layer_part
from .resnet import torchvision_name

NO_CLASS = -20.0  # logit of category ids that are no class
_PARTS = {part: {ours: theirs for theirs, ours in names.items()} for part, names in LAYER_PARTS.items()}
_LEVEL = re.compile(r"^neck\.(extra_)?convs\.(\d+)\.(conv|norm)\.")
_HEAD = re.compile(r"^(?:transformer\.decoder\.)?(class|bbox)_embed\.(\d+)\.")


def official_names(state: State) -> State:
    """Our weights by the authors' names, heads by both; 80 classes, COCO's, become rows of 91 category ids."""
    dino = "decoder.norm.weight" in state
    theirs = DETREX_DEFORMABLE.write(state)
    layers = len({key.split(".")[3] for key in theirs if key.startswith("transformer.decoder.layers.")})
    levels = len({found[2] for key in theirs if (found := _LEVEL.match(key)) and not found[1]})
    resnet = "backbone.stem.conv1.weight" in theirs
    out: State = {}
    for key, value in theirs.items():
        head = _HEAD.match(key)
        of_encoder = head is not None and int(head[2]) == layers
        if key == "label_enc.weight":
            value = _rows(value, len(value) + 1 if len(value) != 80 else 92, COCO_IDS, 0.0)
        elif head is not None and head[1] == "class" and len(value) == 80:
            ids = range(80) if of_encoder and not dino else COCO_IDS  # a row of objectness, and 79 that count nothing
            value = _rows(value, 91, ids, NO_CLASS if key.endswith("bias") else 0.0)
        if of_encoder and dino:
            key = f"transformer.enc_out_{head[1]}_embed.{key[head.end() :]}"
        out[_their_name(key, levels, resnet, dino)] = value
    return out


def _rows(value: Tensor, number: int, ids: Sequence[int], fill: float) -> Tensor:
    """So many rows, of which the first ones or, of 80, those of ``ids`` are the tensor's."""
    out = value.new_full((number, *value.shape[1:]), fill)
    out[list(ids) if len(value) == 80 else slice(len(value))] = value
    return out


def _their_name(key: str, levels: int, resnet: bool, dino: bool) -> str:
    """From detrex's."""
    if key.startswith("backbone."):
        inner = torchvision_name(key).removeprefix("backbone.")
        return f"backbone.0.{'body.' if resnet else ''}{inner}"
    if level := _LEVEL.match(key):
        index = int(level[2]) + (levels if level[1] else 0)
        return f"input_proj.{index}.{int(level[3] == 'norm')}.{key[level.end() :]}"
    if key == "transformer.level_embeds":
        return "transformer.level_embed"
    if key == "query_embedding.weight" or (key == "transformer.tgt_embed.weight" and not dino):
        return "query_embed.weight"
    return layer_part(key, _PARTS)
