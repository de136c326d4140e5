"""benchmarks/strategies.py: what happens when overlays are laid over each other, and the page that tells it."""

from __future__ import annotations

import importlib
import itertools
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
NAMES = ("pairs", "strategies", "strategy_costs", "strategy_facts")
pairs, page, costs, facts = map(importlib.import_module, NAMES)
sys.path.pop(0)
Outcome = pairs.Outcome
PAGE = (ROOT / "docs" / "strategies.md").read_text(encoding="utf-8")


def assert_says_why(refusal):
    """A reason is a sentence, and no exception's name, place in a file or address."""
    assert len(refusal.split()) > 5 and not re.search(r"\w+(Error|Exception)\b|\.py\b|0x[0-9a-f]{6}", refusal), refusal


@pytest.mark.parametrize("first, second, refused, lost", [
    ("stable", "high_order", "", ()),
    ("high_order", "stable", "the overlay stable needs a matcher with a FocalClassCost", ()),
    ("stable", "mal", "", ("PositionLoss",)),
    ("hybrid", "group", "choose one of hybrid and group queries", ()),
    ("dense_o2o", "mosaic", "", ("dataset.plain_from",)),
])  # fmt: skip
def test_a_pair_composes_or_is_refused_with_a_reason(first, second, refused, lost):
    found = pairs.attempt(pairs.HOST, [first, second])
    assert refused in found.refusal and found.lost == lost and not found.wholly
    if refused:
        assert_says_why(found.refusal)


def test_one_that_is_replaced_wholly_is_told():
    assert pairs.attempt(pairs.HOST, ["mal", "stable"]) == Outcome("", ("MatchabilityLoss",), True)


def test_a_step_that_is_not_finite_is_a_fault(monkeypatch):
    def spoiled(host, overlays, laid=pairs.laid):
        cfg = laid(host, overlays)
        cfg.model.rules.main.terms["class"].weight = float("nan")
        return cfg

    monkeypatch.setattr(pairs, "laid", spoiled)
    with pytest.raises(FloatingPointError, match="not finite"):
        pairs.attempt(pairs.HOST, [])


def test_what_is_no_refusal_is_not_taken_for_one(monkeypatch):
    def fails(cfg, host):
        raise KeyError("fault")

    monkeypatch.setattr(pairs, "step", fails)
    with pytest.raises(KeyError):
        pairs.attempt(pairs.HOST, ["sqr"])


def test_the_marks_of_the_table_and_the_lines_below():
    outcomes = {("a", "b"): Outcome(), ("b", "a"): Outcome("it has no rule"), ("a", "c"): Outcome("", ("Loss",)),
                ("c", "a"): Outcome("", ("Loss",), True), ("b", "c"): Outcome("it has no rule")}  # fmt: skip
    assert page.outcome_table("abc", "abc", outcomes).splitlines() == [
        "| | a | b | c |",
        "|---|:-:|:-:|:-:|",
        "| **a** |  | + | ~ 1 |",
        "| **b** | - 2 |  | - 2 |",
        "| **c** | ~ 3 |  |  |",
        "",
        "1. the one laid later takes the place of its Loss",
        "2. refused: it has no rule",
        "3. the one laid later takes its place wholly",
    ]


def test_costs_are_told_as_times_of_the_bare_step():
    row = {"seconds": 3.0, "bare_seconds": 2.0, "mib": 1500.0, "bare_mib": 1000.0}
    assert page._cost_cell(row, True) == "3.00 s (x 1.50), 1500 MiB (x 1.50)"
    assert page._cost_cell(None, True) == "not measured yet" and page._cost_cell(None, False).startswith("as bare")
    assert page._cost_cell({"refusal": "no teacher"}, True) == "-"


def test_costs_that_are_known_are_not_measured_again(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(costs, "cost", lambda *given: asked.append(given) or {"refusal": "none"})
    file = tmp_path / "costs.json"
    for _ in range(2):
        assert len(costs.measure(["sqr", "mosaic"], file, 1)) == 4
    assert [(name, dtype) for name, _, dtype, _ in asked] == [("sqr", "fp32"), ("sqr", "bf16")] * 2


def test_a_cost_that_is_refused_says_why(monkeypatch):
    monkeypatch.setattr(costs, "peak_alone", lambda work: pytest.fail("nothing is measured of what is refused"))
    found = costs.cost("deta", costs.MODELS["Deformable"], "fp32", 1)["refusal"]
    assert "needs a two-stage host" in found
    for refusal in (found, *(row["refusal"] for row in costs.read(page.COSTS).values() if "refusal" in row)):
        assert_says_why(refusal)


def test_the_page_is_of_the_overlays_that_there_are():
    shown = re.findall(r"^\| `(\w+)` \| .* \| .* \| .* \|$", PAGE.partition("## Cost")[0], re.MULTILINE)
    assert {"sqr", "dac", "mal", "stable", "high_order", "dense_o2o"} <= set(shown) <= set(facts.FACTS)
    assert all((pairs.OVERLAYS / f"{name}.py").is_file() for name in shown)
    for note in re.findall(r"^\d+\. refused: (.*)$", PAGE, re.MULTILINE):
        assert_says_why(note)


@pytest.mark.slow
def test_every_pair_composes_or_is_refused_with_a_reason_and_the_page_says_so():
    names = pairs.strategies()
    found = {pair: pairs.attempt(pairs.HOST, pair) for pair in itertools.permutations(names, 2)}
    for outcome in found.values():
        if outcome.refusal:
            assert_says_why(outcome.refusal)
    assert page.outcome_table(names, names, found) in PAGE, "python benchmarks/strategies.py"


@pytest.mark.slow
@pytest.mark.parametrize("host", pairs.HOSTS.values())
def test_every_overlay_is_laid_over_a_host_or_refused_with_a_reason(host):
    for name in pairs.strategies():
        outcome = pairs.attempt(host, [name])
        assert not outcome.refusal or not assert_says_why(outcome.refusal)


def test_the_table_of_readme_is_the_script_s():
    readme = page.README.read_text(encoding="utf-8")
    assert page.in_readme(readme, costs.read(page.COSTS)) == readme
    assert readme.count(page.MARK) == 2 and set(facts.IN_SHORT) == set(pairs.strategies())
