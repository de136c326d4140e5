"""The solver for GPUs finds SciPy's pairs, of equally good assignments the same one; in Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from detrex_ext.criterion import SetCriterion, detr_rules
from detrex_ext.matching import FocalClassCost, HungarianMatcher, RepeatedMatcher, on_device, resolve, stack_sets
from detrex_ext.structures import Assignment, Given, SupervisedSet, Targets


def triton_before(*version):
    """Whether there is no Triton, or an older one."""
    return find_spec("triton") is None or tuple(map(int, metadata.version("triton").split(".")[:2])) < version


interpreted = pytest.mark.skipif(triton_before(3, 2), reason="needs triton 3.2, whose interpreter takes numpy 2")


def run(function: str, *args) -> None:
    """A function of this file where the interpreter is on, as it must be before triton is imported."""
    found = subprocess.run(
        [sys.executable, "-c", f"import runpy; runpy.run_path({__file__!r})[{function!r}](*{args!r})"],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr[-2000:]


def problems(seed: int):
    """Costs of two sets, whole numbers with many ties or others, and objects of each image: fewer, as many or more."""
    rng = np.random.default_rng(seed)
    while True:
        queries, counts = int(rng.integers(1, 9)), [int(n) for n in rng.integers(0, 7, 3)]
        shape = (2, sum(counts), queries)
        costs = (rng.integers(0, 3, shape), 0.1 * rng.integers(0, 2, shape), rng.standard_normal(shape))
        yield costs[rng.integers(3)].astype(np.float32), counts


def solves(seed: int, number: int) -> None:
    from detrex_ext.matching.triton_solver import solve

    done = 0
    for costs, counts in problems(seed):
        found = solve(torch.from_numpy(costs), counts).numpy()
        for cost, answer in zip(costs, found, strict=True):
            start = 0
            for count in counts:
                rows, columns = linear_sum_assignment(cost[start : start + count])
                expected = np.full(count, -1)
                expected[rows] = columns
                assert (answer[start : start + count] == expected).all(), (cost[start : start + count], expected)
                start, done = start + count, done + (count > 0)
        if done >= number:
            return


@interpreted
@pytest.mark.parametrize(
    "seed, number", [(0, 80), *(pytest.param(seed, 1000, marks=pytest.mark.slow) for seed in range(1, 6))]
)
def test_pairs_are_those_of_scipy(seed, number):
    run("solves", seed, number)


def given(counts, sets=2, queries=6, classes=3, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    labels = tuple(torch.randint(0, classes, (n,), generator=g) for n in counts)
    boxes = tuple(0.2 + 0.5 * torch.rand(n, 4, generator=g, dtype=dtype) for n in counts)
    valid = torch.ones(len(counts), queries, dtype=torch.bool)
    valid[0, :2] = False
    shared = Given(valid_BQ=valid)
    made = [
        SupervisedSet(
            torch.randn(len(counts), queries, classes, generator=g, dtype=dtype),
            torch.rand(len(counts), queries, 4, generator=g, dtype=dtype),
            stage, given=shared,
        )
        for stage in range(sets)
    ]  # fmt: skip
    return made, Targets(labels, boxes, torch.ones(len(counts), 2))


def triples(pairs, images, counts):
    """Set, image, query and object of all pairs."""
    valid = torch.ones_like(pairs.gt_P, dtype=torch.bool) if pairs.valid_P is None else pairs.valid_P
    return sorted(zip(*(x[valid].tolist() for x in (pairs.set_P, pairs.img_P, pairs.query_P, pairs.gt_P)), strict=True))


def matches() -> None:
    """Pairs, losses and gradients by both ways; more objects than queries; what is not finite."""
    for counts in ((3, 0, 2), (8, 1, 7), (0, 0, 0)):
        sets, targets = given(counts)
        for times in (1, 2):
            ways = [HungarianMatcher(solver=solver) for solver in ("scipy", "triton")]
            ways = ways if times == 1 else [RepeatedMatcher(way, times) for way in ways]
            stack = stack_sets(sets)
            answers = [way.match(stack, targets) for way in ways]
            assert isinstance(answers[1], Assignment) or not any(counts)
            host, here = (resolve([answer], "cpu")[0].cls for answer in answers)
            assert triples(host, 3, counts) == triples(here, 3, counts), counts
    losses = []
    for solver in ("scipy", "triton"):
        sets, targets = given((3, 0, 2), dtype=torch.float64)
        leaves = [x.requires_grad_() for s in sets for x in (s.logits_BQK, s.boxes_BQ4)]
        rule = detr_rules(("main",))["main"]
        rule.matcher.solver = solver
        found = SetCriterion({"main": rule})(sets, targets)
        losses.append((found, torch.autograd.grad(sum(found.values()), leaves)))
    for name, value in losses[0][0].items():
        torch.testing.assert_close(losses[1][0][name], value, rtol=1e-12, atol=1e-12)
    for got, value in zip(losses[1][1], losses[0][1], strict=True):
        torch.testing.assert_close(got, value, rtol=1e-12, atol=1e-12)
    for wrong in (torch.nan, torch.inf, -torch.inf):
        sets, targets = given((3, 0, 2))
        sets[1].boxes_BQ4[2] = wrong
        rule = detr_rules(("main",))["main"]
        rule.matcher.solver = "triton"
        with pytest.raises(FloatingPointError, match="loss_class of group 'main', path 'plain', stage 1"):
            SetCriterion({"main": rule})(sets, targets)


def known() -> None:
    """What the solver is asked before it is used, on a GPU of any kind."""
    from detrex_ext.matching.triton_solver import solve

    costs = np.asarray(on_device._KNOWN[0])
    by_scipy = [*linear_sum_assignment(costs[:2])[1], *linear_sum_assignment(costs[2:])[1]]
    assert on_device._QUERIES == by_scipy == solve(torch.tensor(on_device._KNOWN), [2, 1])[0].tolist()


@interpreted
def test_what_it_must_know_to_be_used_is_what_scipy_finds():
    run("known")


@interpreted
def test_a_matcher_without_the_host_gives_the_same_losses():
    run("matches")


@pytest.mark.skipif(triton_before(3, 3), reason="needs triton 3.3, whose compiler takes these constants")
@pytest.mark.parametrize("queries_first", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_it_compiles_for_a_gpu_and_holds_a_problem_in_registers(queries_first):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from detrex_ext.matching.triton_solver import _solve

    fixed, pointers = {"BR": 128, "BC": 1024, "QUERIES_FIRST": queries_first}, {"cost": "*fp32"}
    pointers |= {"spans": "*i32", "answer": "*i32"}
    signature = {p.name: pointers.get(p.name, "i32") for p in _solve.params}
    signature |= {p.name: "constexpr" for p in _solve.params if p.is_constexpr}
    constants = {(p.num,): fixed[p.name] for p in _solve.params if p.is_constexpr}
    target = GPUTarget("cuda", 90, 32)
    made = triton.compile(ASTSource(_solve, signature, constants), target=target, options={"num_warps": 8})
    assert ".local" not in made.asm["ptx"]


def test_where_it_is_used(monkeypatch):
    cost = torch.zeros(1, 2, 3)
    assert not on_device.chosen("auto", cost, [2]) and not on_device.chosen("scipy", cost, [2])
    assert not on_device.usable(torch.device("cuda", 7))  # neither is there
    with pytest.raises(ValueError, match="solver must be one of auto, scipy, triton, not 'gpu'"):
        HungarianMatcher([FocalClassCost()], solver="gpu")
    if not triton_before(3, 2):
        assert not on_device.chosen("triton", cost.expand(1, 2, 3), [5000])  # too large: solved by SciPy
