"""The invariants of the protocol over hosts x strategies x batches."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import product

import pytest
import torch

from detrex_ext.layers.attention import MultiheadAttention
from detrex_ext.matching import FCOSMatcher, RoIMatcher, stack_sets
from detrex_ext.modeling.decoders import chunks
from detrex_ext.strategies import QueryRecollection, Strategy
from detrex_ext.structures import Targets, cat
from detrex_ext.testing import BrokenInvariant, check_host, check_strategy, example_batch

from .hosts import (
    ALL_HOSTS,
    CHUNKS,
    CLASSES,
    HOSTS,
    LOSSES,
    QUICK_TRAINED,
    SOFTMAX,
    SOURCES,
    STRATEGIES,
    TRAINED,
    host_for,
    restrict,
)
from .steps import assert_same_step, training_step

CASES = {
    "1, objects": (3,),
    "2, one without": (3, 0),
    "2, none": (0, 0),
    "3, objects": (2, 1, 4),
}


@pytest.mark.parametrize("objects", CASES.values(), ids=list(CASES))
@pytest.mark.parametrize("host", ALL_HOSTS)
def test_host(host, objects):
    assert "sets alone or together" in check_host(ALL_HOSTS[host](), objects)


def cells():
    """Every host with every strategy on every batch; of strategies together, of further queries, and of sets run one at
    a time, one batch, and the others if asked for; of those with parameters likewise, on some hosts; of other losses,
    which have a test of their own, all if asked for.
    """
    for host, strategy, case in product(HOSTS, STRATEGIES, CASES):
        other_loss = bool({*strategy.split(" + ")} & {*LOSSES})
        if other_loss and host in SOFTMAX:
            continue
        slow = ("+" in strategy or strategy in {*SOURCES, *CHUNKS, *TRAINED}) and case != "2, one without"
        trained = any(name in strategy.replace(",", " +").split(" + ") for name in TRAINED)
        slow |= trained and (strategy not in TRAINED or host not in QUICK_TRAINED)
        marks = [pytest.mark.slow] if slow or other_loss else []
        yield pytest.param(host, strategy, CASES[case], id=f"{host}-{strategy}-{case}", marks=marks)


@pytest.mark.parametrize("host, strategy, objects", list(cells()))
def test_strategy_on_host(host, strategy, objects):
    model, checked = host_for(host, strategy), STRATEGIES[strategy](host)
    held = check_strategy(checked, model, objects)
    assert {"eval identity", "plain path", "isolation", "finite gradients"} <= set(held)
    if model.decoder.chunk:
        together = training_step(model, checked, objects, lambda decoder: setattr(decoder, "chunk", None))
        assert_same_step(training_step(model, checked, objects), together)


@pytest.mark.parametrize("matcher", [FCOSMatcher(), RoIMatcher(threshold=0.2), RoIMatcher(take="all")])
@pytest.mark.parametrize("strategy", ["none", "sqr + dac"])
@pytest.mark.parametrize("host", ["deformable, two-stage, dn", "dino"])
def test_matching_restricted_to_candidates(host, strategy, matcher):
    model = restrict(host_for(host, strategy), matcher)
    held = check_strategy(STRATEGIES[strategy](host), model, (3, 0))
    assert {"same losses on every batch", "finite gradients"} <= set(held)
    sets = model.train().forward_sets(batch := example_batch(model.num_classes, (8, 3)))
    targets = Targets.from_instances([x["instances"] for x in batch], "cpu")
    for group in ("enc", "main"):
        stack = stack_sets([s for s in sets if s.group == group])
        gt_BQ, found = matcher.candidates(stack, targets), matcher.match(stack, targets)
        for pairs in (found.cls, found.box):
            img, query, gt = (x[pairs.valid_P] for x in (pairs.img_P, pairs.query_P, pairs.gt_P))
            assert torch.equal(gt_BQ[img, query], gt) and torch.equal(targets.image_G[gt], img)
        assert found.cls.valid_P.any() or group == "main" or host == "dino"  # its few queries may be elsewhere


@pytest.mark.parametrize("host", ["detr", "dab", "deformable, two-stage", "dino"])
def test_sets_computed_again_draw_the_same_dropout(host, monkeypatch):
    model, strategy = host_for(host, "sqr, one set at a time"), STRATEGIES["sqr"](host)
    for part in model.decoder.modules():
        if isinstance(part, MultiheadAttention):
            part.attn.dropout = 0.2
        elif isinstance(part, torch.nn.Dropout):
            part.p = 0.2
    again = training_step(model, strategy, (3, 0))
    monkeypatch.setattr(chunks, "checkpoint", lambda run, *given, **named: run(*given))
    assert_same_step(again, training_step(model, strategy, (3, 0)))


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("host", HOSTS)
def test_further_queries_leave_the_hosts_own_alone(host, name):
    bare = HOSTS[host]().double()
    model = SOURCES[name](copy.deepcopy(bare))
    batch = example_batch(bare.num_classes)
    found = []
    for which in (bare, model):
        torch.manual_seed(0)
        with torch.no_grad():
            found.append((which.train().forward_sets(batch), which.eval().forward_sets(batch)))
    (trained, asked), (trained_beside, asked_beside) = found
    assert len(asked) == len(asked_beside)
    for a, b in zip(asked, asked_beside, strict=True):
        assert torch.equal(a.logits_BQK, b.logits_BQK) and torch.equal(a.boxes_BQ4, b.boxes_BQ4)
    assert {s.group for s in trained_beside} == {s.group for s in trained} | {name}
    first = {(s.stage, s.group): s for s in reversed(trained_beside)}
    for s in trained:
        beside = first[s.stage, s.group]
        torch.testing.assert_close(beside.logits_BQK, s.logits_BQK, rtol=0, atol=1e-12)
        torch.testing.assert_close(beside.boxes_BQ4, s.boxes_BQ4, rtol=0, atol=1e-12)


def sigmoid_hosts():
    """Those with denoising, and those that have no form with it; the others if asked for."""
    for host in HOSTS:
        if host not in SOFTMAX:
            yield pytest.param(host, marks=[pytest.mark.slow] if f"{host}, dn" in HOSTS else [])


@pytest.mark.parametrize("host", list(sigmoid_hosts()))
def test_another_loss_changes_the_training_alone(host):
    bare, batch = HOSTS[host]().eval(), example_batch(CLASSES, (3, 0))
    with torch.no_grad():
        answers = [torch.cat([s.logits_BQK, s.boxes_BQ4], -1) for s in bare.forward_sets(batch)]
    usual = bare.train()(batch)
    for name, change in LOSSES.items():
        model = change(copy.deepcopy(bare)).eval()
        state = model.state_dict()
        assert list(state) == list(bare.state_dict())
        assert all(torch.equal(state[key], value) for key, value in bare.state_dict().items())
        with torch.no_grad():
            found = [torch.cat([s.logits_BQK, s.boxes_BQ4], -1) for s in model.forward_sets(batch)]
        assert all(torch.equal(a, b) for a, b in zip(found, answers, strict=True))
        losses = model.train()(batch, progress=1.0)
        assert losses.keys() == usual.keys() == model(example_batch(CLASSES, (0, 0)), progress=0.5).keys(), name
        assert losses["loss_class"] != usual["loss_class"]
        sum(losses.values()).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_of_a_sigmoid_is_refused_by_a_softmax(loss):
    with pytest.raises(ValueError, match="is for a sigmoid per class, but the logits of .* are a softmax"):
        LOSSES[loss](HOSTS["detr"]()).train()(example_batch(CLASSES, (2,)))


@pytest.mark.parametrize("host", ALL_HOSTS)
def test_no_gradient_leaks_between_images(host):
    model = ALL_HOSTS[host]().train()
    torch.manual_seed(0)
    images = torch.randn(2, 3, 64, 96, requires_grad=True)
    instances = [x["instances"] for x in example_batch(model.num_classes, (2, 2))]
    sets = model.core(images, torch.tensor([[64.0, 96.0], [56.0, 80.0]]), Targets.from_instances(instances, "cpu"))
    read = sum(s.logits_BQK[0].sin().sum() + s.boxes_BQ4[0].sum() for s in sets if s.group == "main")
    (grad,) = torch.autograd.grad(read, images)
    assert grad[0].abs().max() > 0
    assert grad[1].abs().max() == 0


@pytest.mark.parametrize("host", ALL_HOSTS)
def test_bf16_autocast_trains(host):
    model = ALL_HOSTS[host]().train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(example_batch(model.num_classes, (2, 0)))
    sum(losses.values()).backward()
    assert all(v.dtype == torch.float32 and v.isfinite() for v in losses.values())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("host", HOSTS)
def test_padding_beyond_the_valid_area_changes_nothing(host):
    """Given equal features inside the valid area, what stands in the padding must not matter (true masks)."""
    model = HOSTS[host]().double().eval()
    torch.manual_seed(0)
    images = torch.randn(1, 3, 128, 128, dtype=torch.float64)
    valid = torch.tensor([[128.0, 64.0]], dtype=torch.float64)
    neck = model.neck
    outs = []
    for noise in (0.0, 1e3):

        def padded(features, noise=noise):
            maps = neck(features)
            for m in maps:
                m[..., m.shape[3] // 2 :] = noise
            return maps

        model.__dict__["_modules"]["neck"] = _Call(padded)
        with torch.no_grad():
            outs.append(model.core(images, valid)[-1])
    torch.testing.assert_close(outs[0].boxes_BQ4, outs[1].boxes_BQ4, rtol=0, atol=1e-10)
    torch.testing.assert_close(outs[0].logits_BQK, outs[1].logits_BQK, rtol=0, atol=1e-10)


class _Call(torch.nn.Module):
    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def forward(self, x):
        return self.fn(x)


def test_a_wrong_strategy_is_named():
    class SharesTheDomain(QueryRecollection):
        def after_stage(self, step, history, sets, q):
            sets, out = super().after_stage(step, history, sets, q)
            return sets, out.replace(slots=tuple(replace(s, domain=0) for s in out.slots), masks={})

    with pytest.raises(BrokenInvariant) as e:
        check_strategy(SharesTheDomain(), HOSTS["deformable, two-stage"]())
    assert {"plain path", "isolation"} <= set(e.value.names)


def test_losing_denoising_is_told_with_how_to_keep_it():
    class MainAlone(Strategy):
        def after_stage(self, step, history, sets, q):
            return sets, q.take("main")

    class Parted(Strategy):
        def after_stage(self, step, history, sets, q):
            return sets, cat(q.take("dn"), q.take("main")) if step < 0 else q

    host = HOSTS["deformable, two-stage, dn"]
    with pytest.raises(BrokenInvariant, match=r"take\('main'\) leaves out 'dn'. Put what you add .* cat\(added, q\)"):
        check_strategy(MainAlone(), host())
    with pytest.raises(BrokenInvariant, match=r"share a self-attention domain .* never cat\(q.take\('dn'\)"):
        check_strategy(Parted(), host())


def test_a_wrong_host_is_named():
    model = HOSTS["deformable, two-stage"]()
    attend = type(model.decoder).cross_attend

    class Leaks(type(model.decoder)):
        def cross_attend(self, layer, x, kv, mem):
            out = attend(self, layer, x, kv, mem)
            return out.replace(content_BTC=out.content_BTC + out.content_BTC.mean(1, keepdim=True))

    model.decoder.__class__ = Leaks
    with pytest.raises(BrokenInvariant, match="sets alone or together") as e:
        check_host(model)
    assert "chunks" in e.value.names
