"""What is read off the parts of an instantiated detrex model: sizes, backbone, neck, supervision.

Nothing here imports detrex: parts are known by their attributes.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from detrex_ext.criterion import Rule, detr_rule, rules_by_group
from detrex_ext.errors import UserError
from detrex_ext.matching import GivenMatcher, HungarianMatcher
from detrex_ext.modeling.backbones import ResNet
from detrex_ext.modeling.necks import ChannelMapper
from detrex_ext.modeling.preprocess import Preprocess

_DEPTHS = {(2, 2, 2, 2): 18, (3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
_NORMS = {"FrozenBatchNorm2d": "FrozenBN", "BatchNorm2d": "BN"}
_TERMS = ("loss_class", "loss_bbox", "loss_giou")


def layer_sizes(layers: Any) -> dict[str, Any]:
    """Arguments of our encoder or decoder from the layers of detrex's.

    Raises:
        UserError: layers of a kind that ours have no option for.
    """
    first = layers.layers[0]
    rates = {_rate(part) for layer in layers.layers for part in layer.attentions}
    rates |= {m.p for layer in layers.layers for m in layer.ffns.modules() if isinstance(m, nn.Dropout)}
    if len(rates) > 1 or first.pre_norm:
        found = "norms before attention" if first.pre_norm else f"rates of dropout {sorted(rates)}"
        raise UserError(f"from_detrex: {type(layers).__name__} has {found}; one rate and norms after it are known")
    return {
        "dim": first.embed_dim,
        "num_heads": first.attentions[-1].num_heads,
        "ffn_dim": first.ffns[0].feedforward_dim,
        "dropout": rates.pop(),
        "num_layers": len(layers.layers),
    }


def _rate(attention: Any) -> float:
    """Dropout of an attention of any of detrex's three kinds."""
    if hasattr(attention, "attn"):
        return float(attention.attn.dropout)
    return float((attention.attn_drop if hasattr(attention, "attn_drop") else attention.dropout).p)


def sampling_sizes(layers: Any) -> dict[str, int]:
    """Levels and points of deformable attention."""
    attention = layers.layers[0].attentions[-1]
    return {"num_levels": attention.num_levels, "num_points": attention.num_points}


def position(model: Any) -> dict[str, float]:
    """Temperature and offset of the sine code.

    Raises:
        UserError: a code of another kind.
    """
    code = model.position_embedding
    same = getattr(code, "normalize", False) and math.isclose(code.scale, 2 * math.pi)
    if not same:
        raise UserError(f"position code {type(code).__name__}: the normalized sine code is known, no other")
    return {"temperature": float(code.temperature), "offset": float(code.offset)}


def preprocess(model: Any, parity_padding: bool) -> Preprocess:
    """The normalization, which detrex keeps in a function over two tensors."""
    names = inspect.getclosurevars(model.normalizer).nonlocals
    mean, std = (names[name].flatten().tolist() for name in ("pixel_mean", "pixel_std"))
    return Preprocess(mean, std, parity_padding=parity_padding)


def backbone(guest: nn.Module) -> nn.Module | None:
    """Our ResNet of the same shape; None where the guest's is no plain ResNet, and stays as it is."""
    names = getattr(guest, "stage_names", ())
    if tuple(names) != ("res2", "res3", "res4", "res5") or not hasattr(guest.stem, "conv1"):
        return None
    parts = [guest.stem, *(getattr(guest, name) for name in names)]
    depth = _DEPTHS.get(tuple(len(stage) for stage in parts[1:]))
    if depth == 50 and not hasattr(guest.res2[0], "conv3"):
        depth = 34
    frozen = [not any(p.requires_grad for p in part.parameters()) for part in parts]
    freeze_at = frozen.index(False) if False in frozen else len(parts)
    norm = _NORMS.get(type(getattr(guest.res5[0].conv1, "norm", None)).__name__)
    if depth is None or norm is None:
        return None
    ours = ResNet(depth, tuple(guest._out_features), freeze_at, norm)
    return ours if _same_convolutions(guest, ours) else None


def _same_convolutions(guest: nn.Module, ours: nn.Module) -> bool:
    """Kernels, strides, dilations, groups and norms of two backbones."""

    def convolutions(model: nn.Module) -> dict[str, tuple]:
        found = {}
        for name, m in model.named_modules():
            if isinstance(m, nn.Conv2d):
                norm = type(getattr(m, "norm", None)).__name__
                found[name] = (m.weight.shape, m.stride, m.padding, m.dilation, m.groups, _NORMS.get(norm))
        return found

    return convolutions(guest) == convolutions(ours)


def neck(guest: nn.Module) -> nn.Module | None:
    """Our channel mapper of the same shape; None where the guest's is of another kind, and stays as it is."""
    convs = list(getattr(guest, "convs", ()))
    extra = list(getattr(guest, "extra_convs", None) or ())
    known = convs and all(isinstance(getattr(c, "norm", None), nn.GroupNorm) for c in (*convs, *extra))
    if not known or any(c.activation is not None or c.norm.num_groups != 32 for c in (*convs, *extra)):
        return None
    first = convs[0].conv
    names = getattr(guest, "in_features", None)
    if names is None or first.bias is None or first.stride != (1, 1):
        return None
    channels = {name: c.conv.in_channels for name, c in zip(names, convs, strict=True)}
    return ChannelMapper(channels, first.out_channels, len(convs) + len(extra), first.kernel_size[0])


def rules(model: Any, groups: tuple[str, ...], objectness: bool = False) -> dict[str, Rule]:
    """Supervision of the groups as detrex's criterion and weights have it.

    Raises:
        UserError: a criterion that cannot be said in rules: weights that differ between layers, no auxiliary losses.
    """
    criterion, matcher = model.criterion, model.criterion.matcher
    if not model.aux_loss:
        raise UserError("aux_loss=False: all stages are supervised here; pass rules={} and state model.rules yourself")
    softmax = criterion.loss_class_type == "ce_loss"
    ours = HungarianMatcher(
        cost_class=matcher.cost_class,
        cost_bbox=matcher.cost_bbox,
        cost_giou=matcher.cost_giou,
        cost_class_type=matcher.cost_class_type,
        alpha=matcher.alpha,
        gamma=matcher.gamma,
    )
    found = {}
    for group in groups:
        by_class, bbox, giou = _weights(criterion.weight_dict, "" if group == "main" else f"_{group}")
        found[group] = detr_rule(
            GivenMatcher() if group == "dn" else ours,
            by_class,
            bbox,
            giou,
            softmax,
            criterion.alpha,
            criterion.gamma,
            criterion.eos_coef,
            objectness=objectness and group == "enc",
        )
    return rules_by_group(found)


def _weights(weights: Mapping[str, float], suffix: str) -> list[float]:
    """Weights of class, box and GIoU loss of a group: the same in all layers, 1 where there is none."""
    found = []
    for term in _TERMS:
        stem = term + suffix
        layers = {float(w) for key, w in weights.items() if key == stem or key.removeprefix(f"{stem}_").isdigit()}
        if len(layers) > 1:
            raise UserError(f"weights of {stem} differ between layers: {sorted(layers)}; rules have one for all stages")
        found.append(layers.pop() if layers else 1.0)
    return found


def tensors_of(model: nn.Module, without: tuple[str, ...]) -> dict[str, Tensor]:
    """The state of a model but for some of its parts."""
    return {key: value for key, value in model.state_dict().items() if not key.startswith(without)}
