"""Query recollection is what the paper says it is: its tables exactly, and every set of every host."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from detrex_ext.modeling.decoders.staged import StagedDecoder
from detrex_ext.strategies import QueryRecollection
from detrex_ext.structures import Queries, Slot
from detrex_ext.testing import example_batch
from detrex_ext.testing.passes import initial

from .hosts import HOSTS, LAYERS, STRATEGIES
from .steps import assert_same_step, repeat_memory, training_step


class Trace(StagedDecoder):
    """The content of a query is the list of the stages it went through, as digits from 1."""

    def project(self, layer, mem):
        return None

    def condition(self, layer, q, mem):
        return q

    def self_attend(self, layer, x):
        return x

    def cross_attend(self, layer, x, kv, mem):
        return x.replace(content_BTC=10 * x.content_BTC + layer + 1)

    def predict(self, layer, x, mem):
        return x.content_BTC, x.ref_BT4, x


def lineages(layers, strategy):
    """Of each stage, the stages that each of its sets went through."""
    nothing = Queries(torch.zeros(1, 1, 1, dtype=torch.int64), torch.zeros(1, 1, 4), (Slot(1),))
    sets = Trace(layers).train()(nothing, None, [strategy])
    assert [s.path for s in sets if s.path == "plain"] == ["plain"] * (sets[-1].stage + 1)
    found = [[s for s in sets if s.stage == i] for i in range(sets[-1].stage + 1)]
    assert all(of_stage[-1].path == "plain" for of_stage in found)
    return [[str(int(s.logits_BQK)) for s in of_stage] for of_stage in found]


# of the list of all sets so far, the slice that each stage takes
PUBLISHED = {
    "sqr": (1, 2, (0, 0, 1, 2, 4, 7), (1, 2, 4, 7, 12, 20)),
    "from stage 2": (2, 2, (0, 1, 1, 2, 3, 5), (1, 2, 3, 5, 8, 13)),
    "from stage 3": (3, 2, (0, 1, 2, 2, 3, 4), (1, 2, 3, 4, 6, 9)),
    "from stage 4": (4, 2, (0, 1, 2, 3, 3, 4), (1, 2, 3, 4, 5, 7)),
    "from stage 5": (5, 2, (0, 1, 2, 3, 4, 4), (1, 2, 3, 4, 5, 6)),
    "seven stages": (1, 2, (0, 0, 1, 2, 4, 7, 12), (1, 2, 4, 7, 12, 20, 33)),
    "window of three": (1, 3, (0, 0, 0, 1, 2, 4), (1, 2, 4, 8, 15, 28)),
    "dqr": (1, None, (0,) * 6, (1, 2, 4, 8, 16, 32)),
}


@pytest.mark.parametrize(("first", "window", "start", "end"), PUBLISHED.values(), ids=list(PUBLISHED))
def test_stages_take_the_published_slices(first, window, start, end):
    reserve, expected = [""], []
    for stage, (a, b) in enumerate(zip(start, end, strict=True)):
        assert b == len(reserve)
        expected.append([line + str(stage + 1) for line in reserve[a:b]])
        reserve += expected[-1]
    found = lineages(len(start), QueryRecollection(window, first))
    assert found == expected
    assert [of_stage[-1] for of_stage in found] == ["1234567"[: i + 1] for i in range(len(start))]


def test_lineages_of_the_last_stage():
    sets = lineages(6, QueryRecollection())
    listed = "246 1246 1346 2346 12346 1356 2356 12356 2456 12456 13456 23456 123456"
    assert sets[5] == listed.split() and sum(map(len, sets)) == 32
    again = lineages(6, QueryRecollection(None, repeat_last=True))
    assert again[6] == [line + "6" for line in again[5]] and sum(map(len, again)) == 95


# all hosts with two images, and with other numbers of them if asked for
CASES = [
    pytest.param(host, (2, 0, 3, 1, 0)[:n], id=f"{host}-{n}", marks=[] if n == 2 else pytest.mark.slow)
    for host in HOSTS
    for n in (1, 2, 3, 5)
]


def decode(model, strategy, objects=(2, 0)):
    """The main sets of a training pass; what each stage handed on, the initial queries first; the memory."""
    history = []

    class Kept(type(strategy)):
        def after_stage(self, step, so_far, sets, q):
            history[:] = so_far
            return super().after_stage(step, so_far, sets, q)

    strategy.__class__ = Kept
    torch.manual_seed(0)
    q, mem = initial(model.train(), example_batch(model.num_classes, objects))
    sets = model.decoder(q, mem, [strategy])
    return [s for s in sets if s.group == "main"], list(history), mem


@pytest.mark.parametrize("schedule", ["sqr", "dqr"])
@pytest.mark.parametrize("host, objects", CASES)
def test_every_set_equals_its_lineage_run_alone(host, objects, schedule):
    model, strategy = HOSTS[host]().double(), STRATEGIES[schedule](host)
    sets, history, mem = decode(model, strategy, objects)
    expected = [(stage, line) for stage, lines in enumerate(lineages(LAYERS, strategy)) for line in lines]
    assert [s.stage for s in sets] == [stage for stage, _ in expected]
    for one, (_, line) in zip(sets, expected, strict=True):
        q = history[0].take("main")
        if line[0] != "1" and getattr(model.decoder, "refine", False) and q.slots[0].point:
            box = torch.cat([q.ref_BT4[..., :2], torch.full_like(q.ref_BT4[..., 2:], -2.0).sigmoid()], -1)
            q = q.replace(ref_BT4=box, slots=(replace(q.slots[0], point=False),))
        for stage in line:
            logits, boxes, q = model.decoder.stage(int(stage) - 1, q, mem)
        torch.testing.assert_close(one.logits_BQK, logits, rtol=0, atol=1e-10)
        torch.testing.assert_close(one.boxes_BQ4, boxes, rtol=0, atol=1e-10)


@pytest.mark.parametrize("host, objects", CASES)
def test_a_memory_repeated_for_every_set_gives_the_same_step(host, objects):
    model, strategy = HOSTS[host](), STRATEGIES["sqr"](host)
    together = training_step(model, strategy, objects)
    assert_same_step(training_step(model, strategy, objects, repeat_memory), together)


FORWARD = ("dab", "dab, patterns", "dab, dn", "deformable++", "dino", "deformable, no encoder, mixed, dn")
DETACHED = ("adamixer", "adamixer, dn", "deformable, refine", "deformable, two-stage", "deformable, two-stage, dn")


@pytest.mark.parametrize("host", [*FORWARD, *DETACHED])
def test_a_box_teaches_the_box_its_set_came_from_and_none_before(host):
    """Where a host's stages look forward at all; the others' references carry no gradient from stage to stage."""
    strategy = STRATEGIES["dqr"](host)
    sets, history, _ = decode(HOSTS[host]().double(), strategy)
    made = history[1:LAYERS]
    assert all(q.ref_BT4.requires_grad == (host in FORWARD) for q in made)
    last = [s for s in sets if s.stage == LAYERS - 1]
    for one, line in zip(last, lineages(LAYERS, strategy)[-1], strict=True):
        before = int(line[-2]) if len(line) > 1 else 0
        refs = [q.ref_BT4 for q in made if q.ref_BT4.requires_grad]
        grads = torch.autograd.grad(one.boxes_BQ4.sum(), refs, retain_graph=True, allow_unused=True) if refs else ()
        reached = [i for i, g in enumerate(grads, 1) if g is not None and g.abs().max() > 0]
        assert reached == ([before] if before and host in FORWARD else []), line
