"""Hybrid queries against the official ones; ``DETREX_EXT_HDETR`` names a checkout of HDETR/H-Deformable-DETR.

Model, matcher, criterion and the loss of extra queries are its files; the backbone is a stand-in, the encoder has no
layer, and what is imported but not used is left out.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from pathlib import Path
from unittest import mock

import pytest
import torch
import torchvision.ops  # noqa: F401 - theirs; what is first imported below is forgotten again
from torch import nn

from detrex_ext.checkpoint import load_state
from detrex_ext.criterion import GIoULoss, SetCriterion, Term, detr_rules, hybrid_rule
from detrex_ext.layers.box_ops import TINY, inverse_sigmoid
from detrex_ext.matching import FocalClassCost, GIoUCost, HungarianMatcher, L1Cost
from detrex_ext.modeling.decoders import DeformableDecoder
from detrex_ext.modeling.queries import HybridQueries, TwoStageQueries
from detrex_ext.structures import Memory, Targets

VARIABLE = "DETREX_EXT_HDETR"
ROOT = Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None
if ROOT is None or not (ROOT / "models/deformable_detr.py").is_file():
    pytest.skip(f"comparison with H-DETR needs {VARIABLE} to name a checkout of it", allow_module_level=True)

K, DIM, HEADS, POINTS, FFN, STAGES, Q, T = 91, 256, 8, 2, 48, 3, 8, 24
SHAPES, VALID = ((8, 8), (4, 4)), ((1.0, 1.0), (0.75, 1.0))  # of a picture: width, height


class Nested:
    def __init__(self, tensors, mask):
        self.tensors, self.mask = tensors, mask

    def decompose(self):
        return self.tensors, self.mask


class Maps(nn.Module):
    """Two maps of two pictures, the second with padding on the right."""

    strides, num_channels = (8, 16), (8, 8)

    def forward(self, samples):
        g = torch.Generator().manual_seed(5)
        maps = [torch.randn(2, 8, h, w, generator=g, dtype=torch.float64) for h, w in SHAPES]
        ends = torch.tensor([v[0] for v in VALID])[:, None, None]
        pads = [(torch.arange(w) >= w * ends).expand(2, h, w) for h, w in SHAPES]
        positions = [m.new_zeros(2, DIM, *m.shape[2:]) for m in maps]
        return [Nested(*pair) for pair in zip(maps, pads, strict=True)], positions


@pytest.fixture(scope="module")
def official():
    """Modules ``models.*`` and ``engine``, on a CPU; deformable sampling by its own function in plain torch."""

    def load(name):
        spec = importlib.util.spec_from_file_location(name, ROOT / (name.replace(".", "/") + ".py"))
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        attach(name, module)
        return module

    def stub(name, **content):
        module = sys.modules[name] = types.ModuleType(name)
        module.__path__ = []
        vars(module).update(content)
        attach(name, module)

    def attach(name, module):
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)

    unused = dict.fromkeys(("nested_tensor_from_tensor_list", "interpolate"))
    with mock.patch.dict(sys.modules):
        stub("util")
        stub("models")
        stub(
            "util.misc",
            NestedTensor=Nested,
            accuracy=lambda *_: [torch.zeros(())],
            get_world_size=lambda: 1,
            is_dist_avail_and_initialized=lambda: False,
            inverse_sigmoid=inverse_sigmoid,
            **unused,
        )
        load("util.box_ops")
        stub("models.backbone", build_backbone=None)
        for name in ("MultiScaleDeformableAttention", "models.ops", "models.ops.functions", "models.ops.modules"):
            stub(name)
        sampling = load("models.ops.functions.ms_deform_attn_func").ms_deform_attn_core_pytorch
        sys.modules["models.ops.functions"].MSDeformAttnFunction = types.SimpleNamespace(
            apply=lambda value, shapes, _, at, weight, step: sampling(value, shapes, at, weight)
        )
        sys.modules["models.ops.modules"].MSDeformAttn = load("models.ops.modules.ms_deform_attn").MSDeformAttn
        for name in ("deformable_transformer", "matcher", "segmentation", "deformable_detr"):
            load(f"models.{name}")
        stub("wandb")
        stub("datasets")
        for name in ("CocoEvaluator:coco_eval", "PanopticEvaluator:panoptic_eval", "data_prefetcher:data_prefetcher"):
            what, _, module = name.partition(":")
            stub(f"datasets.{module}", **{what: None})
        yield types.SimpleNamespace(models=sys.modules["models"], train_hybrid=load("engine").train_hybrid)


@pytest.fixture(scope="module")
def both(official):
    """Their predictions, our sets, and our parts with their weights."""
    torch.manual_seed(0)
    transformer = official.models.deformable_transformer.DeformableTransformer(
        DIM, HEADS, 0, STAGES, FFN, 0.0, "relu", True, 2, POINTS, POINTS, True, Q + T, True, True
    )
    net = official.models.deformable_detr.DeformableDETR(
        Maps(), transformer, K, 2, True, True, True, Q, T, mixed_selection=True
    )
    net = net.double().train()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    source = HybridQueries(TwoStageQueries(K, Q, DIM, content="mixed"), T)
    decoder = DeformableDecoder(K, DIM, HEADS, 2, POINTS, FFN, 0.0, STAGES, refine=True, look_forward_twice=True)
    parts = nn.ModuleDict({"queries": source, "decoder": decoder}).double().train()
    report = load_state(parts, net.state_dict(), strict=False)
    assert not report.missing and not report.mismatched
    # wavelengths of its position codes are of single precision whatever the model is
    with mock.patch.object(torch, "float32", torch.float64):
        theirs = net(Nested(torch.zeros(2, 3, 64, 64), None))
    maps = net.backbone(None)[0]
    tokens = torch.cat(
        [proj(m.tensors).flatten(2).transpose(1, 2) for proj, m in zip(net.input_proj, maps, strict=True)], 1
    )
    pad = torch.cat([m.mask.flatten(1) for m in maps], 1)
    valid = torch.tensor([[v] * 2 for v in VALID], dtype=torch.float64)
    mem = Memory(tokens, None, pad, SHAPES, (8, 16), valid, torch.tensor([[64.0, 64.0], [64.0, 48.0]]))
    queries, sets = source(mem)
    return theirs, [*sets, *decoder(queries, mem)], net, source


def stages(outputs, suffix=""):
    last = {k: outputs[f"pred_{k}{suffix}"] for k in ("logits", "boxes")}
    return [{k: one[f"pred_{k}"] for k in last} for one in outputs[f"aux_outputs{suffix}"]] + [last]


def test_both_kinds_of_queries_at_all_stages(both):
    theirs, sets, *_ = both
    compared = 0
    for group, suffix in (("main", ""), ("hybrid", "_one2many")):
        for i, one in enumerate(stages(theirs, suffix)):
            (ours,) = (s for s in sets if (s.group, s.stage) == (group, i))
            torch.testing.assert_close(ours.logits_BQK, one["logits"], rtol=0, atol=1e-11)
            torch.testing.assert_close(ours.boxes_BQ4, one["boxes"], rtol=0, atol=1e-11)
            compared += 1
    assert compared == 2 * STAGES and theirs["pred_logits_one2many"].shape[1] == T


def test_losses_of_both_kinds_and_what_they_teach_queries(both, official):
    theirs, sets, net, source = both
    g = torch.Generator().manual_seed(2)
    labels = tuple(torch.randperm(K - 1, generator=g)[:n] + 1 for n in (5, 2))
    boxes = tuple(0.25 + 0.3 * torch.rand(len(x), 4, generator=g, dtype=torch.float64) for x in labels)
    targets = [{"labels": x, "boxes": y} for x, y in zip(labels, boxes, strict=True)]
    criterion = official.models.deformable_detr.SetCriterion(
        K, official.models.matcher.HungarianMatcher(2, 5, 2), {}, ["labels", "boxes"]
    )
    wanted = official.train_hybrid(theirs, targets, 3, criterion, 0.5)

    costs = [FocalClassCost(2.0), L1Cost(5.0), GIoUCost(2.0, eps=TINY)]
    rules = detr_rules(("main", "enc"), enc_objectness=True, matcher=HungarianMatcher(costs), class_weight=2.0)
    for rule in rules.values():
        rule.terms["giou"] = Term(GIoULoss(TINY), 2.0)
    rules["hybrid"] = hybrid_rule(rules["main"], times=3, weight=0.5)
    losses = SetCriterion(rules)(sets, Targets(labels, boxes, torch.ones(2, 2)))
    found, total, compared = losses.stats, 0.0, 0
    for term, (name, weight) in {"class": ("ce", 2), "bbox": ("bbox", 5), "giou": ("giou", 2)}.items():
        expected = {f"stage-1/loss_{term}_enc": f"loss_{name}_enc"}
        for i in range(STAGES):
            at = "" if i == STAGES - 1 else f"_{i}"
            expected[f"stage{i}/loss_{term}"] = f"loss_{name}{at}"
            expected[f"stage{i}/loss_{term}_hybrid"] = f"loss_{name}{at}_one2many"
        for ours, key in expected.items():
            value = weight * wanted[key]
            total = total + value
            torch.testing.assert_close(found[ours], value.detach(), rtol=1e-9, atol=0, check_dtype=False, msg=ours)
            compared += 1
    assert compared == 3 * (1 + 2 * STAGES)
    rows = (source.source.tgt_embed.weight, source.extra.weight)
    taught = torch.cat(torch.autograd.grad(sum(losses.values()), rows))
    (expected,) = torch.autograd.grad(total, net.query_embed.weight)
    assert taught.any(1).all() and (taught - expected).norm() <= 1e-9 * expected.norm()
