"""The official AdaMixer (mmdetection 2.x), and SQR's on top of it: a training method, with the same names.

The backbone has torchvision's names. Every number of queries, stages and classes fits.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import torch

from .base import Layout, Names, State
from .mmcv_twins import without_twins
from .resnet import torchvision_name, torchvision_names

_STAGE = "roi_head.bbox_head."
_CONTENT = "rpn_head.init_content_features.weight"
_FIRST_BOXES = "rpn_head.init_proposal_bboxes.weight"  # the whole image, a constant

# within a stage, theirs -> ours; {} is its number
_PARTS = {
    "iof_tau": "layers.{}.iof_tau",
    "attention.": "layers.{}.attentions.0.",
    "attention_norm.": "layers.{}.norms.0.",
    "sampling_n_mixing.sampling_offset_generator.0.": "layers.{}.sampling_offsets.",
    "sampling_n_mixing.adaptive_mixing.parameter_generator.0.": "layers.{}.mixing.parameter_generator.",
    "sampling_n_mixing.adaptive_mixing.out_proj.": "layers.{}.mixing.out_proj.",
    "sampling_n_mixing.norm.": "layers.{}.norms.1.",
    "ffn.": "layers.{}.ffns.0.",
    "ffn_norm.": "layers.{}.norms.2.",
    "cls_fcs.": "class_embed.{}.",
    "fc_cls.": "class_embed.{}.3.",
    "reg_fcs.": "bbox_embed.{}.",
    "fc_reg.": "bbox_embed.{}.3.",
}
_OURS = re.compile(r"^decoder\.(\w+)\.(\d+)\.")


def _of_stage(key: str) -> str:
    stage, rest = key[len(_STAGE) :].split(".", 1)
    for theirs, ours in _PARTS.items():
        if rest.startswith(theirs):
            return f"decoder.{ours.format(stage)}{rest[len(theirs) :]}"
    return key


def _names(keys: Collection[str], model_keys: Collection[str]) -> Names:
    names: Names = dict(torchvision_names(keys, model_keys))
    for key in keys:
        if key.startswith(_STAGE):
            names[key] = _of_stage(key)
        elif key.startswith("neck.lateral_convs."):
            names[key] = key.replace("lateral_convs", "convs")
        elif key.startswith("neck.gn_out."):
            names[key] = key.replace("gn_out", "norm")
        elif key in (_CONTENT, _FIRST_BOXES):
            names[key] = "queries.content.weight" if key == _CONTENT else None
    return names


def _their_name(key: str) -> str:
    if found := _OURS.match(key):
        # the longest fit, for `class_embed.0.3.` is also a `class_embed.0.`
        parts = [(f"decoder.{ours.format(found[2])}", theirs) for theirs, ours in _PARTS.items()]
        ours, theirs = max((p for p in parts if key.startswith(p[0])), key=lambda p: len(p[0]))
        return f"{_STAGE}{found[2]}.{theirs}{key[len(ours) :]}"
    key = key.replace("neck.convs.", "neck.lateral_convs.").replace("neck.norm.", "neck.gn_out.")
    return torchvision_name(key)


def _write(state: State) -> State:
    out: State = {}
    for key, value in state.items():
        if not key.startswith("queries."):
            out[_their_name(key)] = value
    for key in [k for k in out if k.endswith("running_var")]:
        out.setdefault(key.replace("running_var", "num_batches_tracked"), torch.tensor(0))
    content = state["queries.content.weight"]
    out[_CONTENT] = content
    out[_FIRST_BOXES] = content.new_tensor([0.5, 0.5, 1.0, 1.0]).repeat(len(content), 1)
    return out


MMDET_ADAMIXER = Layout(
    "mmdetection AdaMixer",
    recognize=lambda keys: f"{_STAGE}0.iof_tau" in set(keys),
    rename=without_twins(_names),
    write=_write,
    family="mmdet",
    fits=lambda keys: "decoder.layers.0.iof_tau" in set(keys) and "queries.content.weight" in set(keys),
)
