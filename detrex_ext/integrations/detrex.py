"""A model of detrex, instantiated or as a config, as a detector of ours with its weights."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from typing import Any

from omegaconf import DictConfig
from torch import nn

from detrex_ext.checkpoint import load_state
from detrex_ext.errors import UserError
from detrex_ext.modeling.decoders import DABDecoder, DeformableDecoder, DETRDecoder
from detrex_ext.modeling.detector import Detector
from detrex_ext.modeling.encoders import DeformableEncoder, DenseEncoder
from detrex_ext.modeling.necks import InputProj
from detrex_ext.modeling.postprocess import Postprocess
from detrex_ext.modeling.queries import (
    AnchorQueries,
    DenoisingQueries,
    LearnedQueries,
    PositionQueries,
    TwoStageQueries,
)
from detrex_ext.runtime import LazyCall, instantiate

from . import guest_parts as read
from .guest_config import below, on_cpu

Parts = dict[str, Any]


def from_detrex(
    guest: nn.Module | Mapping[str, Any] | str | os.PathLike,
    strategies: Mapping[str, Any] | None = None,
    rules: Mapping[str, Any] | None = None,
    num_classes: int | None = None,
    parity_padding: bool = True,
) -> Detector:
    """A detrex model as ours: the same predictions and losses, and its weights.

    Sizes, loss weights and matcher costs are read off the model. A ResNet and a channel mapper become ours; any other
    backbone or neck stays the guest's.

    Args:
        guest: a DETR, DAB-DETR, Deformable-DETR or DINO of detrex; or its config, or the file of one, whose
            ``model`` is then instantiated, on the CPU.
        strategies: training strategies by name.
        rules: supervision by group; None = as the guest's criterion has it; {} = none, for a model that only predicts.
        num_classes: what the guest must have, or None.
        parity_padding: as detrex, call padding image in evaluation. Images one at a time have none.

    Raises:
        UserError: a model of another kind, or one with parts that ours have no option for.
    """
    model = guest if isinstance(guest, nn.Module) else instantiate(on_cpu(guest))
    kinds = [k for t in type(model).__mro__ if (k := t.__name__) in _HOSTS]
    if not kinds:
        raise UserError(f"from_detrex: {type(model).__name__} is none of detrex's {', '.join(_HOSTS)}")
    if num_classes not in (None, model.num_classes):
        found = f"num_classes is {num_classes}, the detrex model's is {model.num_classes}"
        raise UserError(f"from_detrex: {found}\n  set num_classes of its model and of its criterion")
    parts, groups, objectness = _HOSTS[kinds[0]](model, parity_padding)
    ours = Detector(
        preprocess=read.preprocess(model, parity_padding),
        backbone=read.backbone(model.backbone),
        **parts,
        num_classes=model.num_classes,
        strategies=strategies,
        rules=read.rules(model, groups, objectness) if rules is None else rules,
    )
    kept = [name for name in ("backbone", "neck") if getattr(ours, name) is None]
    load_state(ours, read.tensors_of(model, tuple(f"{name}." for name in kept)), name=f"detrex's {kinds[0]}")
    for name in kept:
        setattr(ours, name, copy.deepcopy(getattr(model, name)))
    return ours.to(next(model.parameters()).device).train(model.training)


def as_guest(model: Mapping[str, Any]) -> DictConfig:
    """The ``model`` of a detrex config as a config of ours.

    The config file says ``model = as_guest(model)``. The values keep their places under ``model.guest``, but for the
    number of classes: ``model.num_classes`` is the one place for it. Overlays and ``model.strategies`` work as usual.
    """
    guest = below(on_cpu(model))
    node = LazyCall(from_detrex)(guest=guest, strategies={}, rules=None, num_classes=guest.num_classes)
    node.update(strategies=LazyCall("builtins.dict")(), parity_padding=True)
    node.guest.num_classes = node.guest.criterion.num_classes = "${..num_classes}"
    return node


def _deformable(model: Any, parity_padding: bool) -> tuple[Parts, tuple[str, ...], bool]:
    two_stage, sizes = model.as_two_stage, read.layer_sizes(model.transformer.decoder)
    dim, classes = sizes["dim"], model.num_classes
    if two_stage:
        queries = TwoStageQueries(classes, model.transformer.two_stage_num_proposals, dim)
    else:
        queries = LearnedQueries(model.num_queries, dim)
    decoder = DeformableDecoder(
        classes, **sizes, **read.sampling_sizes(model.transformer.decoder), refine=model.with_box_refine
    )
    groups = ("main", "enc") if two_stage else ("main",)
    return _multi_level(model, queries, decoder), groups, True


def _dino(model: Any, parity_padding: bool) -> tuple[Parts, tuple[str, ...], bool]:
    transformer, sizes = model.transformer, read.layer_sizes(model.transformer.decoder)
    dim, classes = sizes["dim"], model.num_classes
    if getattr(model.criterion, "two_stage_binary_cls", False):
        raise UserError("from_detrex: two_stage_binary_cls=True is not known here")
    source = TwoStageQueries(
        classes,
        transformer.two_stage_num_proposals,
        dim,
        content="learned" if transformer.learnt_init_query else "memory",
        score="max",
        supervise="selected",
    )
    queries = DenoisingQueries(
        source,
        classes,
        dim,
        number=model.dn_number,
        label_noise_ratio=model.label_noise_ratio,
        box_noise_scale=model.box_noise_scale,
    )
    decoder = DeformableDecoder(
        classes,
        **sizes,
        **read.sampling_sizes(transformer.decoder),
        refine=True,
        position="reference",
        look_forward_twice=transformer.decoder.look_forward_twice,
        post_norm=True,
    )
    return _multi_level(model, queries, decoder), ("main", "enc", "dn"), False


def _multi_level(model: Any, queries: nn.Module, decoder: nn.Module) -> Parts:
    encoder = model.transformer.encoder
    return {
        "neck": read.neck(model.neck),
        "encoder": DeformableEncoder(
            **read.layer_sizes(encoder), **read.sampling_sizes(encoder), **read.position(model)
        ),
        "queries": queries,
        "decoder": decoder,
        "postprocess": Postprocess(model.select_box_nums_for_evaluation),
    }


def _one_level(model: Any, queries: nn.Module, decoder: nn.Module, prelu: bool, top_k: int | None) -> Parts:
    code = read.position(model)
    if code.pop("offset"):
        raise UserError("from_detrex: a position code with an offset is known for multi-level models only")
    conv = model.input_proj
    sizes = read.layer_sizes(model.transformer.encoder)
    return {
        "neck": InputProj(conv.in_channels, conv.out_channels, model.in_features[-1]),
        "encoder": DenseEncoder(**sizes, **code, scale_position=prelu, prelu=prelu),
        "queries": queries,
        "decoder": decoder,
        "postprocess": Postprocess(top_k),
    }


def _dab(model: Any, parity_padding: bool) -> tuple[Parts, tuple[str, ...], bool]:
    sizes = read.layer_sizes(model.transformer.decoder)
    queries = AnchorQueries(len(model.anchor_box_embed.weight), sizes["dim"], model.transformer.num_patterns)
    decoder = DABDecoder(model.num_classes, **sizes, parity_padding=parity_padding)
    return _one_level(model, queries, decoder, True, model.select_box_nums_for_evaluation), ("main",), False


def _detr(model: Any, parity_padding: bool) -> tuple[Parts, tuple[str, ...], bool]:
    sizes = read.layer_sizes(model.transformer.decoder)
    queries = PositionQueries(len(model.query_embed.weight), sizes["dim"])
    return _one_level(model, queries, DETRDecoder(model.num_classes, **sizes), False, None), ("main",), False


_HOSTS: dict[str, Callable[[Any, bool], tuple[Parts, tuple[str, ...], bool]]] = {
    "DeformableDETR": _deformable,
    "DINO": _dino,
    "DABDETR": _dab,
    "DETR": _detr,
}
