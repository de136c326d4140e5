"""Strategies with parameters of their own: what they compute, and that training alone knows of them."""

from __future__ import annotations

import copy

import pytest
import torch
from narrow import NARROW
from torch import nn
from torch.nn import functional as F

from detrex_ext.checkpoint import Checkpointer, load_state
from detrex_ext.checkpoint.layouts import to_layout
from detrex_ext.config import build, load_config
from detrex_ext.inference import build_for_inference
from detrex_ext.strategies import MixedSupervision, MultiRoute, QueryRecollection
from detrex_ext.structures import is_training_only, without_training_only
from detrex_ext.testing import check_host, check_strategy, example_batch
from detrex_ext.testing.passes import entering

from .hosts import CLASSES, HOSTS, QUERIES, TwoStageQueries, narrow
from .steps import assert_same_step, training_step


def cross_first():
    source = TwoStageQueries(CLASSES, QUERIES, 32, content="mixed", match_anchors=True)
    return narrow(
        source, ("main", "enc"), enc_objectness=True, refine=True, look_forward_twice=True, cross_first=True
    )


@pytest.mark.parametrize("strategy", [None, MultiRoute, MixedSupervision, lambda: MixedSupervision(own_ffn=False)])
def test_a_decoder_that_attends_to_the_memory_first(strategy):
    model = cross_first()
    held = check_host(model, (3, 0)) if strategy is None else check_strategy(strategy(), model, (3, 0))
    assert "same losses on every batch" in held


def test_the_order_of_a_layer_by_hand():
    model, usual = cross_first().double().train(), HOSTS["deformable++"]().double().train()
    usual.load_state_dict(model.state_dict())
    mem, stages = entering(model, example_batch(CLASSES, (2, 1)))
    layer, q = stages[1]
    block, decoder = model.decoder.layers[layer], model.decoder
    x = decoder.condition(layer, q, mem)
    pos, ref, kv = x.extra["_pos"], x.extra["_ref"], decoder.project(layer, mem)
    valid = mem.valid_BL2[:, None]
    unit = ref[:, :, None, 2:] * valid * 0.5 / 2  # half the box, over two points
    content = block.norms[1](
        block.attentions[1](q.content_BTC, pos, ref[:, :, None, :2] * valid, unit, kv, mem.shapes)
    )
    content = block.norms[0](block.attentions[0](content, pos, None))
    wanted = block.norms[2](block.ffns[0](content))
    found = decoder.stage(layer, q, mem)[2].content_BTC
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    assert not torch.allclose(usual.decoder.stage(layer, q, mem)[2].content_BTC, wanted)


def multi_route(host="deformable++"):
    model, strategy = HOSTS[host]().double().train(), MultiRoute(num_tokens=3)
    model.use({"mr": strategy})
    with torch.no_grad():
        for p in strategy.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model, strategy


def test_the_routes_by_hand():
    """Both routes of a stage, by torch's own attention and by formulas."""
    model, strategy = multi_route()
    decoder = model.decoder
    mem, stages = entering(model, example_batch(CLASSES, (2, 1)))
    for layer, q in stages[:2]:
        block = decoder.layers[layer]
        logits, boxes, _ = decoder.stage(layer, q, mem)
        assert [s.path for s in q.slots] == ["instructed", "separate", "plain"]
        for slot, a, b in q.spans():
            if slot.path == "plain":
                continue
            part = q.select([s is slot for s in q.slots])
            x, pos = part.content_BTC, part.extra["query_pos"]
            layers = copy.deepcopy(nn.ModuleList(decoder.layers))
            if slot.path == "instructed":
                tokens, places = (t[layer].expand(len(x), -1, -1) for t in (strategy.tokens, strategy.places))
                qk, v = torch.cat([tokens + places, x + pos], 1), torch.cat([tokens, x], 1)
                found = x + block.attentions[0].attn(qk, qk, v, need_weights=False)[0][:, 3:]
                norm = strategy.norms[layer]
                x = F.layer_norm(found, (32,), norm.weight, norm.bias)
            else:
                x = block.norms[0](block.attentions[0](x, pos))
                layers[layer].ffns[0] = strategy.ffns[layer]
            alone = copy.copy(decoder)  # the host, after its self-attention
            alone._modules = {**decoder._modules, "layers": layers}
            after = decoder.condition(layer, part, mem).replace(content_BTC=x)
            after = alone.cross_attend(layer, after, decoder.project(layer, mem), mem)
            wanted = decoder.predict(layer, after, mem)[:2]
            for one, other in zip((logits, boxes), wanted, strict=True):
                torch.testing.assert_close(one[:, a:b], other, rtol=0, atol=1e-12)


def test_proposals_of_the_second_head_are_the_hosts_with_its_weights():
    model, strategy = multi_route()
    other = copy.deepcopy(model.queries)
    other.load_state_dict({**other.state_dict(), **strategy.heads.state_dict()})
    batch = example_batch(CLASSES, (2, 1))
    images, targets = model.inputs(batch)
    q, mem, _ = model.encode(images.images_B3HW, images.valid_hw_B2, targets)
    sets, begun = strategy.begin(model, q, mem, targets)
    wanted, wanted_sets = other(mem, targets)
    found = begun.take("main", "instructed")
    assert torch.equal(found.ref_BT4, wanted.ref_BT4) and not torch.equal(found.ref_BT4, q.ref_BT4)
    assert torch.equal(begun.take("main", "separate").ref_BT4, q.ref_BT4)
    assert [(s.group, s.path) for s in sets] == [("enc", "instructed")]
    assert torch.equal(sets[0].boxes_BQ4, wanted_sets[0].boxes_BQ4)


def test_routes_run_one_at_a_time_give_the_same_step():
    model = HOSTS["dino"]()
    together = training_step(model, MultiRoute(), (3, 0))
    apart = training_step(model, MultiRoute(), (3, 0), lambda decoder: setattr(decoder, "chunk", 1))
    assert_same_step(apart, together)


def test_mixed_supervision_has_heads_or_blocks_of_its_own():
    for host, heads in (("deformable++", True), ("detr", True), (cross_first, False)):
        model, strategy = (HOSTS[host] if heads else host)(), MixedSupervision(class_weight=3.0)
        model.use({"ms": strategy})
        names = {n.split(".")[0] for n, _ in strategy.named_parameters()}
        assert names == ({"heads"} if heads else {"ffns"})
        sets = model.train().forward_sets(example_batch(CLASSES, (2, 0)))
        plain, mixed = ([s for s in sets if (s.group, s.path) == ("main", p)] for p in ("plain", "mixed"))
        assert len(plain) == len(mixed) == len(model.decoder.order)
        for a, b in zip(plain, mixed, strict=True):  # heads start as the host's, and boxes are the host's
            assert torch.equal(a.boxes_BQ4, b.boxes_BQ4) == torch.equal(a.logits_BQK, b.logits_BQK) == heads
        assert model.criterion.rules[0].terms["class"].weight == 3.0


def test_anchors_that_proposals_are_matched_by():
    model = cross_first()
    enc = next(s for s in model.train().forward_sets(example_batch(CLASSES, (2, 0))) if s.group == "enc")
    anchors, seen = enc.given.prior.boxes_BQ4, enc.match_boxes_BQ4
    may = anchors.any(-1)
    torch.testing.assert_close(seen[may], anchors[may])
    assert may.any() and (seen[~may] == 1).all()
    usual = HOSTS["deformable++"]().train().forward_sets(example_batch(CLASSES, (2, 0)))
    assert all(s.match_boxes_BQ4 is None for s in usual)


OVERLAYS = ("mr", "ms", "co")


def config(*overlays, over=("model.num_classes=4", "model.decoder.num_layers=2")):
    return load_config("small", overlays, [*NARROW, *over])


def trained(model, steps, start=0, optimizer=None):
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(start, start + steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        sum(model.train()(example_batch(4, (2, 1), seed=step)).values()).backward()
        optimizer.step()
    return optimizer


def test_a_resumed_run_goes_on_to_the_bit_and_an_exported_file_has_nothing_of_them(tmp_path):
    def made(*overlays):
        torch.manual_seed(0)
        return build(config(*overlays).model, "model")

    model, bare = made(*OVERLAYS), made()
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in bare.state_dict().items())  # the host starts the same
    optimizer = trained(model, 1)
    Checkpointer(model, str(tmp_path), optimizer=optimizer, extra={}).save("model_0000000")
    trained(model, 1, 1, optimizer)
    again = made(*OVERLAYS)
    other = torch.optim.AdamW(again.parameters(), lr=1e-3)
    Checkpointer(again, str(tmp_path), optimizer=other).resume()
    trained(again, 1, 1, other)
    state = model.state_dict()
    assert any(map(is_training_only, state)) and state.keys() == again.state_dict().keys()
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in state.items())

    predicting = build_for_inference(config(*OVERLAYS))
    assert list(predicting.state_dict()) == list(bare.state_dict()) == list(without_training_only(state))
    load_state(predicting, state, strict=True)
    batch = example_batch(4)
    with torch.no_grad():
        ours, theirs = model.eval().forward_sets(batch), predicting.forward_sets(batch)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.logits_BQK, b.logits_BQK) and torch.equal(a.boxes_BQ4, b.boxes_BQ4)
    assert not any(map(is_training_only, to_layout(model, "detrex")))


@pytest.mark.parametrize("strategy", [MultiRoute, MixedSupervision])
def test_what_cannot_be_is_refused_with_the_reason(strategy):
    model = HOSTS["deformable"]()
    with pytest.raises(ValueError, match="two of them are the same"):
        model.use({"a": strategy(), "b": strategy()})
    with pytest.raises(ValueError, match="num_tokens must be at least 1, got 0"):
        MultiRoute(num_tokens=0)


def test_a_bare_pass_after_them_is_the_hosts():
    """Other strategies in their place leave no route behind."""
    model = HOSTS["deformable"]()
    model.use({"mr": MultiRoute(), "ms": MixedSupervision()})
    model.use({"sqr": QueryRecollection()})
    assert not model.decoder.routes and not model.decoder.readers and not model.training_only
    assert {s.path for s in model.train().forward_sets(example_batch(CLASSES))} == {"plain", "recollect"}


@pytest.mark.parametrize("host", ["deformable++", cross_first], ids=["Mr. DETR", "MS-DETR"])
def test_the_authors_files_fill_a_training_and_a_model_that_predicts(host):
    """Files made here from ours, by names of this test's own."""
    mr = host != cross_first
    model, strategy = (HOSTS[host] if mr else host)(), MultiRoute() if mr else MixedSupervision()
    model.use({"mr" if mr else "ms": strategy})
    with torch.no_grad():
        for p in strategy.parameters():
            p.normal_()
    theirs = _mr_file(model, strategy) if mr else _ms_file(model, strategy)
    other, bare = copy.deepcopy(model), (HOSTS[host] if mr else host)()
    for empty in (other, bare):
        with torch.no_grad():
            for p in empty.parameters():
                p.zero_()
        report = load_state(empty, theirs, strict=True)
        assert report.layout == ("Mr. DETR" if mr else "official H-DETR, DAC-DETR or MS-DETR")
        assert all(torch.equal(v, model.state_dict()[k]) for k, v in empty.state_dict().items())
        assert bool(report.dropped) == (empty is bare)


def _mr_file(model, strategy):
    out = {}
    for key, value in to_layout(model, "detrex").items():
        part = key.removeprefix("transformer.decoder.layers.")
        if part != key:
            for ours, theirs in {
                "norms.0.": "attentions.0.norm_o2o.", "norms.1.": "norms.0.", "norms.2.": "norms.1.",
                "ffns.0.layers.0.0.": "ffns.0.layers.0.linear.linear.", "ffns.0.layers.1.": "ffns.0.layers.1.linear.",
            }.items():  # fmt: skip
                if part.startswith(ours, 2):
                    key = key.replace(ours, theirs)
                    break
        out["query_embedding.weight" if key == "transformer.tgt_embed.weight" else key] = value
    for i in range(len(strategy.ffns)):
        at = f"transformer.decoder.layers.{i}."
        out[f"{at}attentions.0.instruction_o2m.weight"] = strategy.tokens[i]
        out[f"{at}attentions.0.instruction_o2m_pos.weight"] = strategy.places[i]
        first, second = strategy.ffns[i].layers[0][0], strategy.ffns[i].layers[1]
        for kind in ("weight", "bias"):
            out[f"{at}attentions.0.norm_o2m.{kind}"] = getattr(strategy.norms[i], kind)
            out[f"{at}ffns.0.layers.0.linear.linear_sep.{kind}"] = getattr(first, kind)
            out[f"{at}ffns.0.layers.1.linear_sep.{kind}"] = getattr(second, kind)
    for ours, theirs in (("class_embed", "class_embed_o2m_encoder"), ("bbox_embed", "bbox_embed_enc_o2m")):
        for name, value in strategy.heads[ours].state_dict().items():
            out[f"transformer.decoder.{theirs}.{name}"] = value
    return out


def _ms_file(model, strategy):
    out = to_layout(model, "official")
    for i, (block, norm) in enumerate(strategy.ffns):
        for name, part in (("linear3", block.layers[0][0]), ("linear4", block.layers[1]), ("norm4", norm)):
            for kind in ("weight", "bias"):
                out[f"transformer.decoder.layers.{i}.{name}.{kind}"] = getattr(part, kind)
    return out
