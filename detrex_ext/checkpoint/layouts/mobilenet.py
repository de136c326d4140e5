"""MobileNetV2 in our backbone: torchvision's names, and those of files with one flat list of layers in a block."""

from __future__ import annotations

import re
from collections.abc import Collection

from .base import Layout, Names

_FLAT = re.compile(r"^features\.(\d+)\.conv\.(\d)\.")
# layer of a flat block -> torchvision's; those between are activations. The first block has no expansion.
_FIRST = {"0": "0.0", "1": "0.1", "3": "1", "4": "2"}
_EXPANDED = {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1", "6": "2", "7": "3"}


def _torchvision_names(keys: Collection[str], model_keys: Collection[str]) -> Names:
    """What the backbone lacks is left out: the classifier, parts behind the last map, counters of constant norms."""
    wanted = set(model_keys)
    return {key: f"backbone.{key}" if f"backbone.{key}" in wanted else None for key in keys}


def _flat_names(keys: Collection[str], model_keys: Collection[str]) -> Names:
    nested = {}
    for key in keys:
        nested[key] = key
        if found := _FLAT.match(key):
            layer = (_FIRST if found[1] == "1" else _EXPANDED).get(found[2], found[2])
            nested[key] = f"features.{found[1]}.conv.{layer}.{key[found.end() :]}"
    ours = _torchvision_names(nested.values(), model_keys)
    return {key: ours[name] for key, name in nested.items()}


TORCHVISION_MOBILENET = Layout(
    name="torchvision MobileNetV2",
    recognize=lambda keys: {"features.0.0.weight", "features.1.conv.0.0.weight"} <= set(keys),
    rename=_torchvision_names,
    scope="backbone.",
)
FLAT_MOBILENET = Layout(
    name="MobileNetV2",
    recognize=lambda keys: {"features.0.0.weight", "features.1.conv.3.weight"} <= set(keys),
    rename=_flat_names,
    scope="backbone.",
)
