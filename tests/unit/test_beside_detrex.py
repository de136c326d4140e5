"""benchmarks/beside_detrex.py: which cells detrex has, and how its answers are compared."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from detrex_ext.benchmark import models
from detrex_ext.benchmark.measure import Options
from detrex_ext.cli import run
from detrex_ext.runtime import Boxes, Instances

beside = SimpleNamespace(**runpy.run_path(str(Path(__file__).resolve().parents[2] / "benchmarks" / "beside_detrex.py")))


def made(suite, options, **like):
    found = beside.cells(suite, options)
    return [(c.impl, c.dtype) for c in found if all(getattr(c, k) == v for k, v in like.items())]


def test_cells_of_a_host_and_its_peers():
    """detrex has SQR for DAB-DETR alone, nothing of AdaMixer, and no DINO step without a GPU."""
    options = Options(("sqr", "sqr+dac"), batch=1)
    steps = {host: made("step", options, host=host, side=320) for host in models.HOSTS}
    ours = [(f"detrex_ext{s}", dtype) for s in ("", "+sqr", "+sqr+dac") for dtype in ("fp32", "bf16")]
    assert steps["DAB-DETR R50"] == [("detrex", "fp32"), ("detrex+sqr", "fp32"), *ours]
    assert steps["DETR R50"] == [("detrex", "fp32"), *ours]
    assert steps["AdaMixer R50"] == steps["DINO R50"] == ours
    assert made("inference", options, host="DINO R50")[0] == ("detrex", "fp32")


def test_detrex_is_first_in_the_cases_of_criterion_and_sampling():
    cases = {}
    for cell in beside.cells("criterion", Options()):
        cases.setdefault(cell.case, []).append(cell.impl)
    assert all((impls[0] == "detrex") == ("sets" in case) for case, impls in cases.items())
    assert sum("detrex" in impls for impls in cases.values()) == 2
    cases = {}
    for cell in beside.cells("attention", Options()):
        cases.setdefault(cell.case, []).append(cell.impl)
    assert all((impls[0] == "detrex") is case.startswith("sampling") for case, impls in cases.items())


def test_what_detrex_asks_for_a_strategy(monkeypatch):
    monkeypatch.setattr(models, "count_sets", lambda host, names, options: 6)
    base = {"suite": "step", "case": "c", "host": "h", "dtype": "fp32"}
    rows = [
        {**base, "impl": "detrex_ext+sqr", "median_s": 1.26, "peak_mib": 552.0},
        {**base, "impl": "detrex_ext+sqr", "median_s": 0.63, "peak_mib": 414.0, "dtype": "bf16"},
        {**base, "impl": "detrex+sqr", "median_s": 2.52, "peak_mib": 1104.0},
    ]
    assert beside.notes(rows, Options(("sqr",))) == [
        "c: sqr beside detrex+sqr fp32: in fp32 0.50x of the time, 0.50x of the memory; "
        "in bf16 0.25x of the time, 0.38x of the memory"
    ]


def test_without_detrex_one_message_says_what_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(beside.main.__globals__, "why_no_detrex", lambda: "detrex: No module named 'detrex'")
    assert run(beside.main, ["criterion"]) == 2
    assert "No module named 'detrex'" in capsys.readouterr().err


def test_agreement_of_a_model_with_itself_and_with_another():
    """Same detections agree exactly; a detection that moved and lost score is found by its class and place."""
    one = Instances((64, 64))
    one.pred_boxes = Boxes(torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]]))
    one.scores, one.pred_classes = torch.tensor([0.9, 0.8]), torch.tensor([1, 2])
    other = Instances((64, 64))
    other.pred_boxes = Boxes(torch.tensor([[20.0, 20, 40, 40.5], [0, 0, 10, 10], [0, 0, 10, 10]]))
    other.scores, other.pred_classes = torch.tensor([0.75, 0.9, 0.1]), torch.tensor([2, 1, 2])
    assert beside.agreement([one], [one]) == (0.0, 0.0, 0.0)
    assert beside.agreement([one], [other]) == pytest.approx((0.05, 0.0, 0.5))
