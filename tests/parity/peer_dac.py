"""The official DAC-DETR on a CPU, from a checkout of it: ``DETREX_EXT_DAC=/path/to/DAC-DETR`` (huzhengdongcs/DAC-DETR).

Model, transformer, denoising, assigner, matcher and criterion are its files; sampling is its function in plain torch;
what they import but do not use is left out.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FrozenBatchNorm2d

from detrex_ext.criterion import AlignedLoss, GIoULoss, L1Loss, Rule, Term, detr_rules
from detrex_ext.layers.box_ops import TINY, inverse_sigmoid
from detrex_ext.matching import FocalClassCost, GIoUCost, HungarianMatcher, L1Cost, OneToManyMatcher
from detrex_ext.strategies import DivideAndConquer
from detrex_ext.structures import Targets

VARIABLE = "DETREX_EXT_DAC"
ROOT = Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None
NUM_CLASSES = 91
LEVELS = {"layer2": "0", "layer3": "1", "layer4": "2"}


def skip_without_checkout() -> None:
    """Skip the calling module, with the reason, where there is no checkout."""
    if ROOT is None or not (ROOT / "models/onetomany.py").is_file():
        pytest.skip(f"comparison with DAC-DETR needs {VARIABLE} to name a checkout of it", allow_module_level=True)


class Nested:
    """A padded batch and its mask, True where it is padding."""

    def __init__(self, tensors: Tensor, mask: Tensor) -> None:
        self.tensors, self.mask = tensors, mask

    def decompose(self) -> tuple[Tensor, Tensor]:
        return self.tensors, self.mask


@contextmanager
def official_package() -> Iterator[types.ModuleType]:
    """The official package ``models``, while this is held."""

    def load(name: str) -> types.ModuleType:
        spec = importlib.util.spec_from_file_location(name, ROOT / (name.replace(".", "/") + ".py"))
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        parent, _, child = name.rpartition(".")
        setattr(sys.modules[parent], child, module)
        return module

    def stub(name: str, **content: Any) -> None:
        module = sys.modules[name] = types.ModuleType(name)
        module.__path__ = []
        vars(module).update(content)

    with mock.patch.dict(sys.modules), _cuda_is_the_cpu():
        stub("util")
        stub("models")
        stub(
            "util.misc",
            NestedTensor=Nested,
            nested_tensor_from_tensor_list=None,
            interpolate=None,
            accuracy=lambda *_: [torch.zeros(())],
            get_world_size=lambda: 1,
            is_dist_avail_and_initialized=lambda: False,
            inverse_sigmoid=inverse_sigmoid,
        )
        sys.modules["util"].box_ops = load("util.box_ops")
        stub("models.backbone", build_backbone=None)
        stub("MultiScaleDeformableAttention")
        stub("models.ops")
        stub("models.ops.functions")
        sampling = load("models.ops.functions.ms_deform_attn_func").ms_deform_attn_core_pytorch
        on_cpu = types.SimpleNamespace(
            apply=lambda value, shapes, _, at, weight, step: sampling(value, shapes, at, weight)
        )
        stub("models.ops.functions", MSDeformAttnFunction=on_cpu)
        stub("models.ops.modules")
        stub("models.ops.modules", MSDeformAttn=load("models.ops.modules.ms_deform_attn").MSDeformAttn)
        names = ("deformable_transformer", "dn_components", "position_encoding", "onetomany", "matcher")
        for name in (*names, "segmentation", "deformable_detr"):
            load(f"models.{name}")
        yield sys.modules["models"]


@contextmanager
def _cuda_is_the_cpu() -> Iterator[None]:
    to = Tensor.to

    def moved(self: Tensor, *args: Any, **named: Any) -> Tensor:
        return self if args == ("cuda",) else to(self, *args, **named)

    with mock.patch.object(Tensor, "cuda", lambda self: self), mock.patch.object(Tensor, "to", moved):
        yield


@contextmanager
def double_by_default() -> Iterator[None]:
    """What is not named is double, the noise of labels too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def in_double() -> Iterator[None]:
    """Single precision that is named means double, and so does what is not named."""
    named = mock.patch.object(torch, "float32", torch.float64), mock.patch.object(Tensor, "float", Tensor.double)
    with double_by_default(), named[0], named[1]:
        yield


def theirs(targets: Targets, times: int = 1) -> list[dict[str, Tensor]]:
    """Objects in their form, each so many times."""
    pairs = zip(targets.labels, targets.boxes, strict=True)
    return [{"labels": x.repeat(times), "boxes": y.repeat(times, 1)} for x, y in pairs]


class _Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = IntermediateLayerGetter(resnet18(weights=None, norm_layer=FrozenBatchNorm2d), LEVELS)


class _Backbone(nn.Sequential):
    """A ResNet-18 and their position code, under their names."""

    strides, num_channels = (8, 16, 32), (128, 256, 512)

    def forward(self, batch: Nested) -> tuple[list[Nested], list[Tensor]]:
        maps = self[0].body(batch.tensors).values()
        features = [
            Nested(x, nn.functional.interpolate(batch.mask[None].float(), x.shape[-2:]).bool()[0]) for x in maps
        ]
        return features, [self[1](x) for x in features]


def build(models: types.ModuleType, queries: int, stages: int, ffn: int) -> nn.Module:
    """Their Deformable-DETR++ with denoising, of a width of 256 (which is written into it) and two sampling points."""
    backbone = _Backbone(_Body(), models.position_encoding.PositionEmbeddingSine(128, normalize=True))
    transformer = models.deformable_transformer.DeformableTransformer(
        256, 8, 1, stages, ffn, 0.0, "relu", True, 4, 2, 2, True, queries, True, True
    )
    options = {"aux_loss": True, "with_box_refine": True, "two_stage": True, "mixed_selection": True}
    return models.deformable_detr.DeformableDETR(
        backbone, transformer, NUM_CLASSES, 4, num_queries_one2one=queries, **options
    ).train()


def losses_by_our_names(wanted: dict[str, Tensor], stages: int) -> Iterator[tuple[str, Tensor]]:
    """Weighted losses of their criterion: ours are per stage, group and path."""
    for term, (short, weight) in {"class": ("ce", 1.0), "bbox": ("bbox", 5.0), "giou": ("giou", 2.0)}.items():
        yield f"stage-1/loss_{term}_enc", (2.0 if term == "class" else weight) * wanted[f"loss_{short}_enc"]
        for i in range(stages):
            at = "" if i == stages - 1 else f"_{i}"
            streams = {"": f"{at}_one2one", "_aux": at, "_dn": f"_dn{at}_one2one", "_dn_aux": f"_dn{at}"}
            for stream, key in streams.items():
                yield f"stage{i}/loss_{term}{stream}", weight * wanted[f"loss_{short}{key}"]


def criterion(models: types.ModuleType) -> nn.Module:
    """Their criterion with the published weights of the matcher."""
    matcher = models.matcher.HungarianMatcher(2, 5, 2)
    return models.deformable_detr.SetCriterion(NUM_CLASSES, matcher, {}, ["labels", "boxes"]).train()


def nested(images: Tensor, sizes: Sequence[tuple[int, int]]) -> Nested:
    """A batch of pictures of these sizes, padded to one."""
    mask = torch.ones(len(images), *images.shape[2:], dtype=torch.bool)
    for row, (h, w) in zip(mask, sizes, strict=True):
        row[:h, :w] = False
    return Nested(images, mask)


def objects(counts: Sequence[int], g: torch.Generator) -> Targets:
    """Objects of an image have different classes: what becomes of equal ones is undefined in the original."""
    labels = tuple(torch.randperm(NUM_CLASSES - 1, generator=g)[:n] + 1 for n in counts)
    boxes = tuple(0.25 + 0.3 * torch.rand(n, 4, generator=g, dtype=torch.float64) for n in counts)
    return Targets(labels, boxes, torch.ones(len(counts), 2))


def our_rules() -> list[Rule]:
    """The released recipe: IoU-aware classification in all streams but the encoder's."""
    costs = [FocalClassCost(2.0), L1Cost(5.0), GIoUCost(2.0, eps=TINY)]
    terms = {"class": Term(AlignedLoss()), "bbox": Term(L1Loss(), 5.0), "giou": Term(GIoULoss(TINY), 2.0)}
    host = detr_rules(("main", "enc", "dn"), enc_objectness=True, matcher=HungarianMatcher(costs), class_weight=2.0)
    host["enc"].terms.update(giou=terms["giou"])
    for group in ("main", "dn"):
        host[group] = Rule(host[group].matcher, terms, host[group].when)
    return [*DivideAndConquer(OneToManyMatcher(tau=1.5)).rules(host), *host.values()]


def compare(found: dict[str, Tensor], wanted: dict[str, Tensor], stages: int, tolerance: float) -> int:
    """Our losses equal theirs; how many there are."""
    pairs = dict(losses_by_our_names(wanted, stages))
    for name, value in pairs.items():
        torch.testing.assert_close(found[name], value, rtol=tolerance, atol=0, check_dtype=False, msg=name)
    return len(pairs)
