"""Backbones out of classifiers: Swin by its authors' names, and any model of timm."""

from __future__ import annotations

import re
from collections.abc import Collection

from .base import Layout, Names

_CLASSIFIER = re.compile(r"^(head|fc|classifier)\.")
_DETECTOR = ("backbone.", "transformer.", "bbox_head.", "roi_head.", "queries.", "decoder.")
_BODY = "backbone.body."


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


SWIN = Layout("Swin classifier", recognize=_is_swin, rename=_swin_names, scope="backbone.")
TIMM = Layout("timm classifier", recognize=_is_classifier, rename=_timm_names, scope="backbone.")
