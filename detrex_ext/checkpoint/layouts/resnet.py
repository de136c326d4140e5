"""ResNet weights alone: torchvision's names, detectron2's without a prefix (converted ImageNet files), and Caffe2's.

mmdetection names a ResNet as torchvision does, and the offsets of a deformable convolution ``conv2.conv_offset``.
Caffe2's names are those of detectron2's files ``MSRA``: scales and shifts of norms hold their statistics, and what an
optimizer left stands beside the weights.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from .base import Layout, Names, Sliced, State

_PREFIXES = ("backbone.body.", "backbone.", "body.", "")
_TORCHVISION = (
    (re.compile(r"^conv1\."), "stem.conv1."),
    (re.compile(r"^bn1\."), "stem.conv1.norm."),
    (re.compile(r"^layer(\d)\.(\d+)\.conv2\.conv_offset\."), lambda m: f"res{int(m[1]) + 1}.{m[2]}.conv2_offset."),
    (re.compile(r"^layer(\d)\.(\d+)\.conv(\d)\.(?=weight)"), lambda m: f"res{int(m[1]) + 1}.{m[2]}.conv{m[3]}."),
    (re.compile(r"^layer(\d)\.(\d+)\.bn(\d)\."), lambda m: f"res{int(m[1]) + 1}.{m[2]}.conv{m[3]}.norm."),
    (re.compile(r"^layer(\d)\.(\d+)\.downsample\.0\."), lambda m: f"res{int(m[1]) + 1}.{m[2]}.shortcut."),
    (re.compile(r"^layer(\d)\.(\d+)\.downsample\.1\."), lambda m: f"res{int(m[1]) + 1}.{m[2]}.shortcut.norm."),
)


def _prefix(keys: Collection[str]) -> str | None:
    """What stands before torchvision's names, or None where they are not torchvision's."""
    known = set(keys)
    return next((p for p in _PREFIXES if f"{p}conv1.weight" in known and f"{p}layer1.0.conv1.weight" in known), None)


def torchvision_names(keys: Collection[str], model_keys: Collection[str]) -> Names:
    """Our names of a backbone's keys; what is no part of it keeps its name."""
    prefix = _prefix(keys) or ""
    wanted = set(model_keys)
    names: Names = {}
    for key in keys:
        inner = key[len(prefix) :] if key.startswith(prefix) else key
        ours = None
        for pattern, target in _TORCHVISION:
            if pattern.match(inner):
                ours = "backbone." + pattern.sub(target, inner, count=1)
        if ours is not None and ours.endswith("num_batches_tracked") and ours not in wanted:
            ours = None  # a frozen norm counts nothing
        names[key] = ours if ours is not None or _is_left_out(inner) else key
    return names


_OURS = (
    (re.compile(r"^backbone\.stem\.conv1\.norm\."), "backbone.bn1."),
    (re.compile(r"^backbone\.stem\.conv1\."), "backbone.conv1."),
    (re.compile(r"^backbone\.res(\d)\.(\d+)\.shortcut\.norm\."), "backbone.layer{}.{}.downsample.1."),
    (re.compile(r"^backbone\.res(\d)\.(\d+)\.shortcut\."), "backbone.layer{}.{}.downsample.0."),
    (re.compile(r"^backbone\.res(\d)\.(\d+)\.conv(\d)\.norm\."), "backbone.layer{}.{}.bn{}."),
    (re.compile(r"^backbone\.res(\d)\.(\d+)\.conv2_offset\."), "backbone.layer{}.{}.conv2.conv_offset."),
    (re.compile(r"^backbone\.res(\d)\.(\d+)\.conv(\d)\."), "backbone.layer{}.{}.conv{}."),
)


def torchvision_name(key: str) -> str:
    """A key of ours under ``backbone.`` and torchvision's name; what is no part of a ResNet keeps its name."""
    for pattern, theirs in _OURS:
        if found := pattern.match(key):
            stage, *rest = found.groups() or ("1",)
            return theirs.format(int(stage) - 1, *rest) + key[found.end() :]
    return key


def _is_left_out(inner: str) -> bool:
    """The classifier, and counters of norms."""
    return inner.startswith(("fc.", "stem.fc.")) or inner.endswith("num_batches_tracked")


def _detectron2_names(keys: Collection[str], model_keys: Collection[str]) -> Names:
    del model_keys
    return {key: None if _is_left_out(key) else f"backbone.{key}" for key in keys}


TORCHVISION_RESNET = Layout(
    name="torchvision ResNet",
    recognize=lambda keys: _prefix(keys) is not None,
    rename=torchvision_names,
    scope="backbone.",
)
DETECTRON2_RESNET = Layout(
    name="detectron2 ResNet",
    recognize=lambda keys: "stem.conv1.weight" in set(keys) and any(k.startswith("res2.0.") for k in keys),
    rename=_detectron2_names,
    scope="backbone.",
)

_BRANCHES = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"}
_KINDS = {"w": "weight", "bn_s": "norm.weight", "bn_b": "norm.bias", "bn_rm": "norm.running_mean"}
_KINDS |= {"bn_riv": "norm.running_var"}
_CAFFE2 = re.compile(rf"^(?:(?:res_)?conv1|res([2-5])_(\d+)_branch(1|2[abc]))_({'|'.join(_KINDS)})$")


def _caffe2_names(keys: Collection[str], model_keys: Collection[str]) -> Names:
    del model_keys
    names: Names = {}
    for key in keys:
        found = _CAFFE2.match(key)
        names[key] = None
        if found:
            stage, block, branch, kind = found.groups()
            at = "stem.conv1" if stage is None else f"res{stage}.{block}.{_BRANCHES[branch]}"
            names[key] = f"backbone.{at}.{_KINDS[kind]}"
    return names


def _caffe2_statistics(state: State, own: Mapping[str, Tensor]) -> list[Sliced]:
    """Norms without statistics get those of the identity, as detectron2 has them."""
    for key, value in own.items():
        if key.startswith("backbone.") and key.endswith("norm.running_mean"):
            state.setdefault(key, torch.zeros_like(value))
        elif key.startswith("backbone.") and key.endswith("norm.running_var"):
            state.setdefault(key, torch.full_like(value, 1 - 1e-5))
    return []


CAFFE2_RESNET = Layout(
    name="Caffe2 ResNet",
    recognize=lambda keys: {"conv1_w", "res2_0_branch2a_w"} <= set(keys),
    rename=_caffe2_names,
    adapt=_caffe2_statistics,
    scope="backbone.",
)
