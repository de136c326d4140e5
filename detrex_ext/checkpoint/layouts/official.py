"""The authors' own files of the deformable hosts: Deformable-DETR, DINO, H-DETR, DAC-DETR and MS-DETR.

Each key is first renamed to detrex's, whose table knows the rest. Three traps: in a decoder layer ``norm2`` is the norm
after self-attention and ``norm1`` the one after cross-attention; class rows are COCO's category ids, 91 with gaps; and
the encoder's class head of all but DINO knows objects only, in its row 0, which is no category.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from torch import Tensor

from detrex_ext.structures import TRAINING_ONLY

from ..coco import COCO_IDS
from .base import Layout, Names, Sliced, State
from .detrex_deformable import DETREX_DEFORMABLE
from .official_parts import LAYER_PARTS, layer_part
from .official_written import official_names
from .resnet import torchvision_names

_BACKBONE = re.compile(r"^backbone\.0\.(body\.)?")
_PROJECTION = re.compile(r"^input_proj\.(\d+)\.([01])\.")
_SAMPLING = "transformer.decoder.layers.0.cross_attn.sampling_offsets.weight"
_QUERIES = ("tgt_embed.weight", "query_embedding.weight")
# MS-DETR's second feed-forward block of a decoder layer, which acts in training alone
_MIXED = re.compile(r"^transformer\.decoder\.layers\.(\d+)\.(linear3|linear4|norm4)\.")
_MIXED_PARTS = {"linear3": "0.layers.0.0", "linear4": "0.layers.1", "norm4": "1"}
_ENCODER_HEADS = {"enc_out_class_embed": "class_embed", "enc_out_bbox_embed": "bbox_embed"}


def through_detrex(
    to_detrex: Callable[[str, Collection[str]], str], table: Layout
) -> Callable[[Collection[str], Collection[str]], Names]:
    """``rename`` of a layout whose keys become detrex's one by one, but for a backbone of torchvision's names."""

    def rename(keys: Collection[str], model_keys: Collection[str]) -> Names:
        theirs = {key: to_detrex(_BACKBONE.sub("backbone.", key), keys) for key in keys}
        ours = table.rename(theirs.values(), model_keys)
        if "backbone.conv1.weight" in ours:
            body = [key for key in ours if key.startswith("backbone.")]
            ours.update(torchvision_names(body, model_keys))
        return {key: ours[name] for key, name in theirs.items()}

    return rename


def _to_detrex(key: str, keys: Collection[str]) -> str:
    if found := _PROJECTION.match(key):
        return _level(found, key, keys)
    if key == "transformer.level_embed":
        return "transformer.level_embeds"
    if key == "query_embed.weight":  # content alone where proposals give the position
        two_stage = "transformer.enc_output.weight" in keys
        return "transformer.tgt_embed.weight" if two_stage else "query_embedding.weight"
    if mixed := _MIXED.match(key):
        return f"{TRAINING_ONLY}.ms.ffns.{mixed[1]}.{_MIXED_PARTS[mixed[2]]}.{key[mixed.end() :]}"
    part, _, rest = key.removeprefix("transformer.").partition(".")
    if part in _ENCODER_HEADS:
        return f"{_ENCODER_HEADS[part]}.{_num_layers(keys)}.{rest}"
    return layer_part(key, LAYER_PARTS)


def _num_layers(keys: Collection[str]) -> int:
    return len({key.split(".")[3] for key in keys if key.startswith("transformer.decoder.layers.")})


def _level(found: re.Match, key: str, keys: Collection[str]) -> str:
    """A level of the neck; where there are several, the last one is below the backbone's."""
    index = int(found[1])
    last = max(int(m[1]) for k in keys if (m := _PROJECTION.match(k)))
    name = "neck.extra_convs.0" if index == last > 0 else f"neck.convs.{index}"
    return f"{name}.{'norm' if found[2] == '1' else 'conv'}.{key[found.end() :]}"


def choose_rows(state: State, own: Mapping[str, Tensor], key: str, rows: Collection[int], how: str) -> list[Sliced]:
    """Takes some rows of a tensor, unless the model's has as many as the file's."""
    before = len(state[key])
    if key in own and len(own[key]) == before:
        return []
    state[key] = state[key][list(rows)]
    return [Sliced(key, before, len(rows), how)]


def _adapt(state: State, own: Mapping[str, Tensor], objectness: bool) -> list[Sliced]:
    done = []
    for key in list(state):
        found = re.match(r"(queries|decoder)\.(?:source\.)*(class_embed|label_enc)\.", key)
        if found and found[2] == "label_enc" and len(own.get(key, ())) == len(state[key]) - 1:
            done += choose_rows(state, own, key, range(len(own[key])), "without the spare one")
        elif found and len(state[key]) in (91, 92):  # 92: one more label than ids, in a label embedding
            if objectness and found[1] == "queries" and found[2] == "class_embed":
                done += choose_rows(state, own, key, range(80), "row 0 is the objectness")
            else:
                done += choose_rows(state, own, key, COCO_IDS, "of COCO's category ids")
        elif key.endswith(_QUERIES) and key in own and len(state[key]) > len(own[key]):
            # queries of one-to-many matching follow, which only training uses
            extra, rest = re.sub(r"source\.\w+\.weight$", "extra.weight", key), state[key][len(own[key]) :]
            if extra != key and extra in own and len(own[extra]) == len(rest):
                state[extra] = rest
            done += choose_rows(state, own, key, range(len(own[key])), "the first, one-to-one queries")
    return done


def _is_deformable(keys: Collection[str]) -> bool:
    return _SAMPLING in set(keys) and "transformer.level_embed" in set(keys)


OFFICIAL_DEFORMABLE = Layout(
    "official Deformable-DETR",
    recognize=_is_deformable,
    rename=through_detrex(_to_detrex, DETREX_DEFORMABLE),
    adapt=lambda state, own: _adapt(state, own, objectness=True),
    write=official_names,
    family="official",
    fits=lambda keys: "decoder.layers.0.attentions.1.sampling_offsets.weight" in set(keys),
)
OFFICIAL_MIXED = replace(
    OFFICIAL_DEFORMABLE,
    name="official H-DETR, DAC-DETR or MS-DETR",
    recognize=lambda keys: {"query_embed.weight", "transformer.enc_output.weight", _SAMPLING} <= set(keys),
)
OFFICIAL_DINO = replace(
    OFFICIAL_DEFORMABLE,
    name="official DINO",
    recognize=lambda keys: _is_deformable(keys) and "transformer.enc_out_class_embed.weight" in set(keys),
    adapt=lambda state, own: _adapt(state, own, objectness=False),
)
