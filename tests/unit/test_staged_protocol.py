"""The protocol on the shipped Deformable decoder, narrow, in fp64, against a loop written by hand, one set at a time.

The loop below knows nothing of slots, folding or the shared cross-attention call: it runs every block of queries on its
own through functions written from the formulas.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from detrex_ext.modeling.decoders import DeformableDecoder
from detrex_ext.modeling.queries import DenoisingQueries, QuerySource, TwoStageQueries
from detrex_ext.strategies import Strategy
from detrex_ext.structures import Memory, Queries, Slot, Targets, cat

DIM, HEADS, POINTS, CLASSES, LAYERS = 16, 2, 2, 3, 4
SHAPES = ((5, 4), (3, 2))


# ---------------------------------------------------------------- the loop by hand
def layer_norm(x, norm):
    return F.layer_norm(x, (DIM,), norm.weight, norm.bias)


def mlp(x, module):
    for i, layer in enumerate(module.layers):
        x = F.linear(x, layer.weight, layer.bias)
        x = x if i == len(module.layers) - 1 else x.clamp(min=0)
    return x


def logit(x):
    return torch.log(x.clamp(1e-3, 1) / (1 - x).clamp(1e-3, 1))


def sine(boxes):
    half = DIM // 2
    i = torch.arange(half, dtype=torch.float64)
    angle = boxes[..., [1, 0, 2, 3], None] * 2 * torch.pi / 10000 ** (2 * (i // 2) / half)
    return torch.where(i % 2 == 0, angle.sin(), angle.cos()).flatten(-2)


def bilinear(map_HWD, x, y):
    """One sample; zero outside."""
    H, W, _ = map_HWD.shape
    x, y = x * W - 0.5, y * H - 0.5
    x0, y0 = int(torch.floor(x)), int(torch.floor(y))
    out = 0.0
    for xi in (x0, x0 + 1):
        for yi in (y0, y0 + 1):
            if 0 <= xi < W and 0 <= yi < H:
                out = out + (1 - (x - xi).abs()) * (1 - (y - yi).abs()) * map_HWD[yi, xi]
    return out


def cross(x_LC, pos_LC, ref_L4, module, mem, b):
    value = F.linear(mem.tokens_BSC[b], module.value_proj.weight, module.value_proj.bias)
    value = torch.where(mem.pad_BS[b][:, None], 0.0, value).view(-1, HEADS, DIM // HEADS)
    levels, at = [], 0
    for h, w in SHAPES:
        levels.append(value[at : at + h * w].view(h, w, HEADS, -1))
        at += h * w
    rows = []
    for x, pos, ref in zip(x_LC, pos_LC, ref_L4, strict=True):
        q = x + pos
        off = F.linear(q, module.sampling_offsets.weight, module.sampling_offsets.bias).view(HEADS, 2, POINTS, 2)
        weight = F.linear(q, module.attention_weights.weight, module.attention_weights.bias).view(HEADS, -1)
        weight = weight.softmax(-1).view(HEADS, 2, POINTS)
        heads = []
        for h in range(HEADS):
            total = 0.0
            for level in range(2):
                valid = mem.valid_BL2[b, level]
                for k in range(POINTS):
                    at = ref[:2] * valid + off[h, level, k] / POINTS * ref[2:] * valid * 0.5
                    total = total + weight[h, level, k] * bilinear(levels[level][:, :, h], at[0], at[1])
            heads.append(total if torch.is_tensor(total) else x.new_zeros(DIM // HEADS))
        rows.append(torch.cat(heads))
    return x_LC + F.linear(torch.stack(rows), module.output_proj.weight, module.output_proj.bias)


def stage_by_hand(dec, layer, block, mem, b):
    """One block (queries that may see each other) of one image through one layer."""
    x, ref, mask, attend = block
    if len(x) == 0:
        return x.new_zeros(0, CLASSES), x.new_zeros(0, 4), (x, ref, mask, attend)
    sampled = ref.detach() if layer else ref
    pos = mlp(sine(sampled * mem.valid_BL2[b, 0].repeat(2)), dec.ref_point_head)
    lay = dec.layers[layer]
    if attend:
        blocked = None if mask is None else ~mask
        out, _ = lay.attentions[0].attn(x + pos, x + pos, x, attn_mask=blocked, need_weights=False)
        x = layer_norm(x + out, lay.norms[0])
    x = layer_norm(cross(x, pos, sampled, lay.attentions[1], mem, b), lay.norms[1])
    ffn = lay.ffns[0].layers
    hidden = F.linear(x, ffn[0][0].weight, ffn[0][0].bias).clamp(min=0)
    x = layer_norm(x + F.linear(hidden, ffn[1].weight, ffn[1].bias), lay.norms[2])
    logits = F.linear(x, dec.class_embed[layer].weight, dec.class_embed[layer].bias)
    delta = mlp(x, dec.bbox_embed[layer])
    boxes = (delta + logit(ref)).sigmoid()
    new = (delta + logit(ref.detach() if layer else ref)).sigmoid() if dec.look_forward_twice else boxes.detach()
    return logits, boxes, (x, new, mask, attend)


def run_by_hand(dec, q0, mem, recollect, aux):
    """All sets as {(stage, group, path, n): (logits, boxes)} per image, n counting equal tags in order."""
    found = {}
    for b in range(len(q0.content_BTC)):
        blocks = []  # (tags, block); tags = [(group, path, size)] in token order
        for domain, spans in q0.domains().items():
            rows = torch.cat([torch.arange(s, e) for s, e in spans])
            tags = [(s.group, "plain", s.size) for s in q0.slots if s.domain == domain]
            blocks.append((tags, (q0.content_BTC[b, rows], q0.ref_BT4[b, rows], q0.masks.get(domain), True)))
        older, entering = [], blocks
        for layer in range(LAYERS):
            outs = []
            for tags, block in entering:
                logits, boxes, new = stage_by_hand(dec, layer, block, mem, b)
                outs.append((tags, new))
                at = 0
                for group, path, size in tags:
                    record(found, (layer, group, path), b, logits[at : at + size], boxes[at : at + size])
                    at += size
            nxt = list(outs)
            if aux and layer == 0:
                for tags, block in outs:
                    at = 0
                    for group, path, size in tags:
                        if group in ("main", "dn") and path == "plain":
                            part = tuple(x[at : at + size] for x in block[:2])
                            logits, boxes = last_of(found, (0, group, "plain"), b)
                            record(found, (0, group, "aux"), b, logits, boxes)
                            nxt.append(([(group, "aux", size)], (*part, None, False)))
                        at += size
            if recollect:
                source = blocks if layer == 0 else older
                nxt = [only_main(t, bl) for t, bl in source if any(g == "main" and p != "aux" for g, p, _ in t)] + nxt
            older, entering = outs, nxt
    return found


def only_main(tags, block):
    at = 0
    for group, _, size in tags:
        if group == "main":
            return [("main", "recollect", size)], (block[0][at : at + size], block[1][at : at + size], None, True)
        at += size
    raise AssertionError


def record(found, key, b, logits, boxes):
    n = 0
    while (*key, n) in found and b in found[(*key, n)]:
        n += 1
    found.setdefault((*key, n), {})[b] = (logits, boxes)


def last_of(found, key, b):
    return found[(*key, 0)][b]


# ---------------------------------------------------------------- strategies and sources under test
class Recollect(Strategy):
    def after_stage(self, step, history, sets, q):
        if step < 0:
            return sets, q
        return sets, cat(history[-2].take("main", ("plain", "recollect")).retag(path="recollect"), q)


class AuxChain(Strategy):
    def after_stage(self, step, history, sets, q):
        if step != 0:
            return sets, q
        sets = sets + [replace(s, path="aux") for s in sets if s.group in ("main", "dn") and s.path == "plain"]
        return sets, cat(history[-1].take(("main", "dn"), "plain").retag(path="aux", attend=False), q)


class TwoGroups(QuerySource):
    """The main queries of a source and a second set of its own, in a domain of its own."""

    def __init__(self, source, size):
        super().__init__()
        self.source = source
        self.content = torch.nn.Parameter(torch.randn(size, DIM))
        self.boxes = torch.nn.Parameter(torch.rand(size, 4))

    def forward(self, mem, targets=None):
        q, sets = self.source(mem, targets)
        B = len(q.content_BTC)
        ref, extra = self.source.place((self.boxes.sigmoid() * 0.4 + 0.2).expand(B, -1, -1), mem)
        content = self.content.expand(B, -1, -1)
        return cat(Queries(content, ref, (Slot(len(self.content), "group"),), extra=extra), q), sets

    def place(self, boxes, mem):
        return self.source.place(boxes, mem)


def build(groups=False, dn=False, look_forward_twice=False, chunk=None):
    torch.manual_seed(0)
    dec = DeformableDecoder(
        CLASSES, DIM, HEADS, 2, POINTS, 24, 0.0, LAYERS, refine=True, position="reference",
        look_forward_twice=look_forward_twice, chunk=chunk,
    )  # fmt: skip
    source = TwoStageQueries(CLASSES, 6, DIM, content="learned", score="max", supervise="selected", anchor_size=0.1)
    if groups:
        source = TwoGroups(source, 6)
    if dn:
        source = DenoisingQueries(source, CLASSES, DIM, groups=2)
    model = torch.nn.ModuleDict({"source": source, "decoder": dec}).double()
    for p in model.parameters():
        with torch.no_grad():
            p.add_(0.1 * torch.randn_like(p))
    return model.train()


def memory(B=2):
    torch.manual_seed(1)
    S = sum(h * w for h, w in SHAPES)
    pad = torch.zeros(B, S, dtype=torch.bool)
    pad[1, 3 : SHAPES[0][0] * 4 : 4] = True  # last column of the fine level of image 1
    valid = torch.ones(B, 2, 2, dtype=torch.float64)
    valid[1, 0, 0] = 0.75
    tokens = torch.randn(B, S, DIM, dtype=torch.float64, requires_grad=True)
    return Memory(tokens, None, pad, SHAPES, (8, 16), valid, torch.tensor([[40.0, 32.0]] * B))


def targets():
    torch.manual_seed(2)
    boxes = [torch.rand(n, 4, dtype=torch.float64) * 0.3 + 0.3 for n in (3, 1)]
    return Targets((torch.tensor([0, 2, 1]), torch.tensor([1])), tuple(boxes), torch.tensor([[40.0, 32.0]] * 2))


def weighted_sum(found):
    """A scalar in which every logit and coordinate has a weight of its own, the same for both executions."""
    total = 0.0
    for key in sorted(found):
        g = torch.Generator().manual_seed(sum(map(ord, str(key))))
        for tensors in (found[key][b] for b in sorted(found[key])):
            for t in tensors:
                total = total + (t * torch.rand(t.shape, generator=g, dtype=torch.float64)).sum()
    return total


CASES = {
    "bare": {},
    "recollect": {"recollect": True},
    "aux": {"aux": True},
    "groups": {"groups": True},
    "denoising": {"dn": True},
    "all": {"recollect": True, "aux": True, "groups": True, "dn": True},
    "all, chunked": {"recollect": True, "aux": True, "groups": True, "dn": True, "chunk": 2},
}


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_outputs_and_gradients_equal_the_loop_by_hand(case, twice):
    model = build(case.get("groups", False), case.get("dn", False), twice, case.get("chunk"))
    mem, dec = memory(), model["decoder"]
    strategies = [AuxChain()] * case.get("aux", False) + [Recollect()] * case.get("recollect", False)

    torch.manual_seed(3)
    q0, _ = model["source"](mem, targets())
    ours = {}
    for s in dec(q0, mem, strategies):
        for b in range(2):
            record(ours, (s.stage, s.group, s.path), b, s.logits_BQK[b], s.boxes_BQ4[b])
    wanted = run_by_hand(dec, q0, mem, case.get("recollect", False), case.get("aux", False))

    assert ours.keys() == wanted.keys()
    for key in wanted:
        for b in range(2):
            for mine, theirs in zip(ours[key][b], wanted[key][b], strict=True):
                torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)

    named = [(n, p) for n, p in model.named_parameters()] + [("memory", mem.tokens_BSC)]
    grads = []
    for found in (ours, wanted):
        grads.append(
            torch.autograd.grad(weighted_sum(found), [p for _, p in named], retain_graph=True, allow_unused=True)
        )
    reached = 0
    for (name, _), mine, theirs in zip(named, *grads, strict=True):
        assert (mine is None) == (theirs is None), name
        if mine is not None:
            reached += bool(mine.abs().max() > 0)
            torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
    assert reached > 60


def test_counts_of_sets():
    model = build(groups=True, dn=True)
    mem = memory()
    q0, _ = model["source"](mem, targets())
    sets = model["decoder"](q0, mem, [AuxChain(), Recollect()])
    count = {}
    for s in sets:
        count[s.group, s.path] = count.get((s.group, s.path), 0) + 1
    fibonacci = [1, 2, 3, 5]
    assert count == {
        ("main", "plain"): 4,
        ("main", "recollect"): sum(fibonacci) - 4,
        ("main", "aux"): 4,
        ("dn", "plain"): 4,
        ("dn", "aux"): 4,
        ("group", "plain"): 4,
    }


def test_strategies_are_idle_at_inference():
    model = build().eval()
    mem = memory()
    q0, sets = model["source"](mem)
    assert sets == []
    bare = model["decoder"](q0, mem)
    with_strategies = model["decoder"](q0, mem, [AuxChain(), Recollect()])
    assert len(with_strategies) == len(bare) == LAYERS
    for a, b in zip(bare, with_strategies, strict=True):
        assert torch.equal(a.logits_BQK, b.logits_BQK) and torch.equal(a.boxes_BQ4, b.boxes_BQ4)


def test_plan_repeats_a_layer_and_eval_order_loops_it():
    class Again(Strategy):
        def plan(self, order):
            return [*order, order[-1]]

    model = build()
    mem = memory()
    q0, _ = model["source"](mem, targets())
    assert [s.stage for s in model["decoder"](q0, mem, [Again()])] == list(range(LAYERS + 1))
    dec = model["decoder"]
    dec.eval_order = (3, 3)
    model.eval()
    sets = dec(q0, mem)
    logits, boxes, q1 = dec.stage(3, q0, mem)
    again = dec.stage(3, q1, mem)
    assert torch.equal(sets[0].boxes_BQ4, boxes) and torch.equal(sets[1].logits_BQK, again[0])


@pytest.mark.parametrize("options", [{"eval_order": (0, 4)}, {"order": (-1,)}, {"order": ()}])
def test_an_order_of_layers_that_are_not_there_is_refused(options):
    with pytest.raises(ValueError, match=rf"{next(iter(options))} must name layers 0 to 3"):
        DeformableDecoder(CLASSES, DIM, HEADS, 2, POINTS, 24, 0.0, LAYERS, **options)


@pytest.mark.parametrize("chunk", [0, -1])
def test_chunks_of_no_domains_are_refused(chunk):
    with pytest.raises(ValueError, match=f"chunk must be at least 1 .* got {chunk}"):
        build(chunk=chunk)
