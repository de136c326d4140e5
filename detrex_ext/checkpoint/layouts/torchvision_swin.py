"""torchvision's Swin Transformer: its classifier's weights in our backbone."""

from __future__ import annotations

import re
from collections.abc import Collection

from .base import Layout, Names

_PLACES = (
    (re.compile(r"^features\.0\.0\."), "patch_embed.proj.", 0),
    (re.compile(r"^features\.0\.2\."), "patch_embed.norm.", 0),
    (re.compile(r"^features\.([1357])\.(\d+)\.mlp\.0\."), "layers.{}.blocks.{}.mlp.fc1.", 0),
    (re.compile(r"^features\.([1357])\.(\d+)\.mlp\.3\."), "layers.{}.blocks.{}.mlp.fc2.", 0),
    (re.compile(r"^features\.([1357])\.(\d+)\."), "layers.{}.blocks.{}.", 0),
    (re.compile(r"^features\.([246])\."), "layers.{}.downsample.", 1),
)


def _rename(keys: Collection[str], model_keys: Collection[str]) -> Names:
    """The classifier is left out, its norm too: a detector has one per map. The index table has another shape."""
    names: Names = {}
    for key in keys:
        names[key] = None
        for pattern, ours, back in _PLACES:
            found = pattern.match(key)
            if found and not key.endswith("relative_position_index"):
                stage, *rest = found.groups() or ("0",)
                names[key] = f"backbone.{ours.format(int(stage) // 2 - back, *rest)}{key[found.end() :]}"
                break
    return names


TORCHVISION_SWIN = Layout(
    name="torchvision Swin",
    recognize=lambda keys: {"features.0.0.weight", "features.1.0.attn.relative_position_bias_table"} <= set(keys),
    rename=_rename,
    scope="backbone.",
)
