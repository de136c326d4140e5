"""Backbones out of classifiers: Swin by its authors' names, any model of timm, and EfficientNet by other names."""

from __future__ import annotations

import re
from collections.abc import Collection

from .base import Layout, Names

_CLASSIFIER = re.compile(r"^(head|fc|classifier)\.")
_DETECTOR = ("backbone.", "transformer.", "bbox_head.", "roi_head.", "queries.", "decoder.")
_BODY = "backbone.body."
_BLOCK = re.compile(r"_blocks\.(\d+)\.(_\w+)\.")
_OUR_BLOCK = re.compile(rf"{re.escape(_BODY)}blocks\.(\d+)\.(\d+)\.")
# EfficientNet-PyTorch's names of layers, and timm's
_OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2", **_SQUEEZE}
_EXPANDED = {
    **{"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"},
    **{"_project_conv": "conv_pwl", "_bn2": "bn3", **_SQUEEZE},
}


def _is_swin(keys: Collection[str]) -> bool:
    return {"patch_embed.proj.weight", "layers.0.blocks.0.attn.relative_position_bias_table"} <= set(keys)


def _swin_names(keys: Collection[str], model_keys: Collection[str]) -> Names:
    """The last norm is the classifier's; a detector has one per map. timm merges patches at the start of a stage."""
    if any(key.startswith(_BODY) for key in model_keys):
        return _timm_names(keys, model_keys)
    late = not any(key.startswith("layers.0.downsample.") for key in keys)
    names: Names = {}
    for key in keys:
        ours = key
        if late and (found := re.match(r"layers\.(\d+)\.downsample\.", key)):
            ours = f"layers.{int(found[1]) - 1}.downsample.{key[found.end() :]}"
        left_out = _CLASSIFIER.match(key) or key.startswith("norm.") or key.endswith("attn_mask")
        names[key] = None if left_out else f"backbone.{ours}"
    return names


def _is_classifier(keys: Collection[str]) -> bool:
    return any(_CLASSIFIER.match(key) for key in keys) and not any(key.startswith(_DETECTOR) for key in keys)


def _timm_names(keys: Collection[str], model_keys: Collection[str]) -> Names:
    """The extractor of maps in timm flattens some containers: ``stages.0`` becomes ``stages_0``.

    What the extractor lacks, its classifier and parts behind the last map, is left out.
    """
    wanted = set(model_keys)
    names: Names = {}
    for key in keys:
        spelled = (f"{_BODY}{key}", f"{_BODY}{key.replace('.', '_', 1)}", f"{_BODY}model.{key}")
        names[key] = next((name for name in spelled if name in wanted), None)
    return names


def _is_efficientnet(keys: Collection[str]) -> bool:
    return "_blocks.0._depthwise_conv.weight" in keys


def _efficientnet_names(keys: Collection[str], model_keys: Collection[str]) -> Names:
    """Blocks are counted through in the file, and within stages in timm: which they are, the model tells."""
    places = sorted({(int(found[1]), int(found[2])) for key in model_keys if (found := _OUR_BLOCK.match(key))})
    expanded = {int(found[1]) for key in keys if (found := _BLOCK.match(key)) and found[2] == "_expand_conv"}
    timm: Names = {}
    for key in keys:
        layer, _, rest = key.partition(".")
        timm[key] = f"{_OUTER.get(layer, layer)}.{rest}"
        if found := _BLOCK.match(key):
            index = int(found[1])
            layers = _EXPANDED if index in expanded else _FIRST
            place = ".".join(map(str, places[index])) if index < len(places) else "behind"
            timm[key] = f"blocks.{place}.{layers.get(found[2], found[2])}.{key[found.end() :]}"
    ours = _timm_names(timm.values(), model_keys)
    return {key: ours[name] for key, name in timm.items()}


SWIN = Layout("Swin classifier", recognize=_is_swin, rename=_swin_names, scope="backbone.")
TIMM = Layout("timm classifier", recognize=_is_classifier, rename=_timm_names, scope="backbone.")
EFFICIENTNET = Layout("EfficientNet-PyTorch", recognize=_is_efficientnet, rename=_efficientnet_names, scope="backbone.")
