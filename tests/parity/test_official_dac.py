"""Our stages, matcher and losses against the official ones; ``DETREX_EXT_DAC`` names a checkout of them.

Decoder, assigner, matcher, losses and criterion are files of huzhengdongcs/DAC-DETR; what they import but do not use is
left out.
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

from detrex_ext.criterion import AlignedLoss, GIoULoss, L1Loss, Rule, SetCriterion, Term, detr_rules
from detrex_ext.layers.box_ops import TINY, inverse_sigmoid
from detrex_ext.matching import FocalClassCost, GIoUCost, HungarianMatcher, L1Cost, OneToManyMatcher, stack_sets
from detrex_ext.modeling.decoders import DeformableDecoder
from detrex_ext.strategies import DivideAndConquer
from detrex_ext.structures import Given, Memory, Pairs, Queries, Slot, SupervisedSet, Targets

VARIABLE = "DETREX_EXT_DAC"
ROOT = Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None
if ROOT is None or not (ROOT / "models/onetomany.py").is_file():
    pytest.skip(f"comparison with DAC-DETR needs {VARIABLE} to name a checkout of it", allow_module_level=True)

STAGES, Q, K, GROUPS = 6, 40, 91, 3


@pytest.fixture(scope="module")
def official():
    """The official package ``models``, on a CPU; deformable sampling by its own function in plain torch."""

    def load(name):
        spec = importlib.util.spec_from_file_location(name, ROOT / (name.replace(".", "/") + ".py"))
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        parent, _, child = name.rpartition(".")
        setattr(sys.modules[parent], child, module)
        return module

    def stub(name, **content):
        module = sys.modules[name] = types.ModuleType(name)
        module.__path__ = []
        vars(module).update(content)

    unused = dict.fromkeys(("NestedTensor", "nested_tensor_from_tensor_list", "interpolate"))
    with mock.patch.dict(sys.modules), mock.patch.object(torch.Tensor, "cuda", lambda self: self):
        stub("util")
        stub("models")
        stub(
            "util.misc",
            accuracy=lambda *_: [torch.zeros(())],
            get_world_size=lambda: 1,
            is_dist_avail_and_initialized=lambda: False,
            inverse_sigmoid=inverse_sigmoid,
            **unused,
        )
        load("util.box_ops")
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
        load("models.deformable_transformer")
        stub("models.dn_components", prepare_for_cdn=None, dn_post_process=None)
        for name in ("onetomany", "matcher", "segmentation", "deformable_detr"):
            load(f"models.{name}")
        yield sys.modules["models"]


def objects(counts, g):
    """Objects of an image have different classes: what becomes of equal ones is undefined in the original."""
    labels = tuple(torch.randperm(K - 1, generator=g)[:n] + 1 for n in counts)
    boxes = tuple(0.25 + 0.3 * torch.rand(n, 4, generator=g, dtype=torch.float64) for n in counts)
    return Targets(labels, boxes, torch.ones(len(counts), 2))


def predictions(targets, g, size=Q, K=K):
    """Logits and boxes, every second box near an object."""
    B = len(targets.counts)
    boxes = 0.2 + 0.4 * torch.rand(B, size, 4, generator=g, dtype=torch.float64)
    for b, own in enumerate(targets.boxes):
        if len(own):
            at = torch.arange(0, size, 2)
            noise = 0.1 * (torch.rand(len(at), 4, generator=g, dtype=torch.float64) - 0.5)
            boxes[b, at] = own[at % len(own)] + noise
    return 2 * torch.randn(B, size, K, generator=g, dtype=torch.float64), boxes


def theirs(targets, times=1):
    return [
        {"labels": x.repeat(times), "boxes": y.repeat(times, 1)}
        for x, y in zip(targets.labels, targets.boxes, strict=True)
    ]


def test_assignment_of_2000_images(official):
    assigner, ours = official.onetomany.Stage2Assigner(300), OneToManyMatcher()
    g, total = torch.Generator().manual_seed(0), 0
    for _ in range(40):
        targets = objects(torch.randint(0, 8, (50,), generator=g).tolist(), g)
        logits, boxes = predictions(targets, g)
        found, _ = assigner({"pred_logits_cdecoder": logits, "pred_boxes": boxes}, theirs(targets))
        box = ours.match(stack_sets([SupervisedSet(logits, boxes, 0)]), targets).box
        start = 0
        for b, (query, gt) in enumerate(found):
            mine = box.valid_P & (box.img_P == b)
            assert torch.equal(box.query_P[mine], query) and torch.equal(box.gt_P[mine] - start, gt)
            start += targets.counts[b]
            total += len(query)
    assert total > 10000


def known_pairs(targets):
    most = max(targets.counts)
    rows = [
        (0, b, r * 2 * most + i, start + i)
        for r in range(GROUPS)
        for b, start in enumerate(targets.offsets_B.tolist())
        for i in range(targets.counts[b])
    ]
    return Pairs(*torch.tensor(rows).T), 2 * most * GROUPS


def as_theirs(stages):
    """Their nested outputs of [{suffix: (logits, boxes)}] by stage."""
    flat = [
        {
            f"pred_{kind}{name}": x
            for name, pair in one.items()
            for kind, x in zip(("logits", "boxes"), pair, strict=True)
        }
        for one in stages
    ]
    return {**flat[-1], "aux_outputs": flat[:-1]}


def our_rules():
    costs = [FocalClassCost(2.0), L1Cost(5.0), GIoUCost(2.0, eps=TINY)]
    terms = {"class": Term(AlignedLoss()), "bbox": Term(L1Loss(), 5.0), "giou": Term(GIoULoss(TINY), 2.0)}
    host = detr_rules(("main", "enc", "dn"), enc_objectness=True, matcher=HungarianMatcher(costs), class_weight=2.0)
    host["enc"].terms.update(giou=terms["giou"])
    for group in ("main", "dn"):
        host[group] = Rule(host[group].matcher, terms, host[group].when)
    return [*DivideAndConquer(OneToManyMatcher(tau=1.5)).rules(host), *host.values()]


def test_all_75_losses(official):
    g = torch.Generator().manual_seed(3)
    targets = objects((4, 0, 7), g)
    pairs, pad = known_pairs(targets)
    given = Given(pairs, float(GROUPS))
    kinds = {("main", "plain"): "", ("main", "aux"): "_cdecoder"}
    stages = [{name: predictions(targets, g) for name in kinds.values()} for _ in range(STAGES)]
    known = [{name: predictions(targets, g, pad) for name in kinds.values()} for _ in range(STAGES)]
    enc = predictions(targets, g, 60)
    criterion = official.deformable_detr.SetCriterion(
        K, official.matcher.HungarianMatcher(2, 5, 2), {}, ["labels", "boxes"]
    ).train()
    meta = {"output_known_lbs_bboxes": as_theirs(known), "num_dn_group": GROUPS, "pad_size": pad}
    outputs = {**as_theirs(stages), "dn_meta": meta, "dn_meta_cdecoder": meta}
    outputs["enc_outputs"] = as_theirs([dict.fromkeys(kinds.values(), enc)])
    wanted = criterion(outputs, theirs(targets), theirs(targets, 3))

    sets = [SupervisedSet(*enc, -1, "enc")]
    for i in range(STAGES):
        for (group, path), name in kinds.items():
            main = stages[i][""][1] if path == "aux" else None
            sets.append(SupervisedSet(*stages[i][name], i, group, path, match_boxes_BQ4=main))
            sets.append(SupervisedSet(*known[i][name], i, "dn", path, given))
    found = SetCriterion(our_rules())(sets, targets).stats

    compared = 0
    for term, (theirs_term, weight) in {"class": ("ce", 1), "bbox": ("bbox", 5), "giou": ("giou", 2)}.items():
        expected = {f"stage-1/loss_{term}_enc": (f"loss_{theirs_term}_enc", 2 if term == "class" else weight)}
        for i in range(STAGES):
            at = "" if i == STAGES - 1 else f"_{i}"
            for stream, key in (
                ("", f"{at}_one2one"),
                ("_aux", at),
                ("_dn", f"_dn{at}_one2one"),
                ("_dn_aux", f"_dn{at}"),
            ):
                expected[f"stage{i}/loss_{term}{stream}"] = (f"loss_{theirs_term}{key}", weight)
        # rank weights of the original are fp32
        for name, (key, factor) in expected.items():
            torch.testing.assert_close(
                found[name], factor * wanted[key], rtol=1e-7, atol=0, check_dtype=False, msg=name
            )
            compared += 1
    assert compared == 75


DIM, SHAPES, DN, MAIN = 32, ((6, 8), (3, 4)), 4, 10
PARTS = {
    "self_attn": "attentions.0.attn",
    "cross_attn": "attentions.1",
    "norm2": "norms.0",
    "norm1": "norms.1",
    "norm3": "norms.2",
    "linear1": "ffns.0.layers.0.0",
    "linear2": "ffns.0.layers.1",
}


def decoders(official):
    """Ours and the official one with the same weights; box heads are the same modules."""
    torch.manual_seed(0)
    ours = DeformableDecoder(K, DIM, 4, 2, 2, 48, 0.0, STAGES, refine=True, look_forward_twice=True).double().train()
    with torch.no_grad():
        for p in ours.parameters():
            p.add_(0.1 * torch.randn_like(p))
    module = official.deformable_transformer
    layer = module.DeformableTransformerDecoderLayer(DIM, 48, 0.0, "relu", 2, 4, 2)
    theirs = module.DeformableTransformerDecoder(layer, STAGES, True, look_forward_twice=True).double().train()
    for their_layer, our_layer in zip(theirs.layers, ours.layers, strict=True):
        for their_name, our_name in PARTS.items():
            their_layer.get_submodule(their_name).load_state_dict(our_layer.get_submodule(our_name).state_dict())
    theirs.bbox_embed = ours.bbox_embed
    return ours, theirs


def decoder_inputs():
    g = torch.Generator().manual_seed(1)

    def randn(*shape):
        return torch.randn(shape, generator=g, dtype=torch.float64)

    B, S = 2, sum(h * w for h, w in SHAPES)
    pad = torch.zeros(B, S, dtype=torch.bool)
    pad[1, 40:48] = True
    valid = torch.tensor([[[1.0, 1.0]] * 2, [[0.75, 0.8]] * 2], dtype=torch.float64)
    mem = Memory(randn(B, S, DIM), None, pad, SHAPES, (8, 16), valid, torch.ones(B, 2))
    mask = torch.ones(DN + MAIN, DN + MAIN, dtype=torch.bool)
    mask[DN:, :DN] = False
    ref = (0.5 * randn(B, DN + MAIN, 4)).sigmoid()
    slots = (Slot(DN, "dn"), Slot(MAIN))
    extra = {"query_pos": randn(B, DN + MAIN, DIM)}
    return mem, Queries(randn(B, DN + MAIN, DIM), ref, slots, {0: mask}, extra=extra)


def test_both_branches_of_all_stages_and_their_gradients(official):
    ours, theirs = decoders(official)
    mem, q = decoder_inputs()
    sets = ours(q, mem, [DivideAndConquer()])
    shapes = torch.tensor(SHAPES)
    args = (q.content_BTC, q.ref_BT4, mem.tokens_BSC, shapes, shapes.prod(1).cumsum(0) - shapes.prod(1), mem.valid_BL2)
    outs = theirs(*args, q.extra["query_pos"], mem.pad_BS, ~q.masks[0])
    pairs = []
    for path, content, refs in (("plain", outs[0], outs[1]), ("aux", outs[2], outs[3])):
        for i in range(STAGES):
            before = inverse_sigmoid(q.ref_BT4 if i == 0 else refs[i - 1])
            logits = ours.class_embed[i](content[i])
            boxes = (ours.bbox_embed[i](content[i]) + before).sigmoid()
            both = [next(s for s in sets if (s.stage, s.group, s.path) == (i, group, path)) for group in ("dn", "main")]
            pairs.append((torch.cat([s.logits_BQK for s in both], 1), logits))
            pairs.append((torch.cat([s.boxes_BQ4 for s in both], 1), boxes))
    assert len(pairs) == 4 * STAGES
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)

    def gradients(read, layers, names):
        wanted = [p for layer in layers for name in names for p in layer.get_submodule(name).parameters()]
        return torch.autograd.grad(read, wanted, retain_graph=True)

    found, expected = (sum(pair[k].sin().sum() for pair in pairs) for k in (0, 1))
    grads = gradients(found, ours.layers, PARTS.values()), gradients(expected, theirs.layers, PARTS)
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)
