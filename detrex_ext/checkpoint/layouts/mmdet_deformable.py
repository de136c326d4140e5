"""mmdetection 2.x's Deformable-DETR, which is SQR's too: a training method, with the same names.

Layers have detrex's names. The neck's convolutions have no bias there, which is a bias of zero.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from torch import Tensor

from .base import Layout, Sliced, State
from .detrex_deformable import DETREX_DEFORMABLE
from .mmcv_twins import without_twins
from .official import through_detrex

_HEAD = "bbox_head."
_BOX_LAYERS = re.compile(r"^reg_branches\.(\d+)\.([024])\.")  # a linear layer, an activation, ...
_NECK = re.compile(r"^neck\.(?:extra_)?convs\.\d+\.")


def to_detrex(key: str, keys: Collection[str]) -> str:
    """One of these names as detrex has it, but for the backbone's."""
    key = key.removeprefix(_HEAD).replace("cls_branches.", "class_embed.")
    key = _BOX_LAYERS.sub(lambda m: f"bbox_embed.{m[1]}.layers.{int(m[2]) // 2}.", key)
    found = _NECK.match(key)
    if found and key.startswith("gn.", found.end()):
        return f"{found[0]}norm.{key[found.end() + 3 :]}"
    return key


def _adapt(state: State, own: Mapping[str, Tensor]) -> list[Sliced]:
    done = []
    for key in [key for key in state if _NECK.match(key) and key.endswith(".conv.weight")]:
        bias = key.replace("conv.weight", "conv.bias")
        if bias not in state:
            state[bias] = state[key].new_zeros(len(state[key]))
            done.append(Sliced(bias, 0, len(state[bias]), "zeros: the file's convolutions have no bias"))
    return done


MMDET_DEFORMABLE = Layout(
    "mmdetection Deformable-DETR",
    recognize=lambda keys: {"bbox_head.transformer.level_embeds", "bbox_head.cls_branches.0.weight"} <= set(keys),
    rename=without_twins(through_detrex(to_detrex, DETREX_DEFORMABLE)),
    adapt=_adapt,
)
