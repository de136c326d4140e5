"""Rows, tables and memory of the benchmark, on its cheapest cells."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from detrex_ext.benchmark import measure, models, report, suites
from detrex_ext.benchmark.measure import Options
from detrex_ext.benchmark.suites import Cell
from detrex_ext.cli import run
from detrex_ext.cli.benchmark import main
from detrex_ext.runtime import Boxes, Instances

MACHINE = {"processor": "p", "threads": 1, "torch": "t", "gemm_fp32": 1e9, "gemm_bf16": 2e9, "bandwidth": 2**30}


@pytest.fixture
def fast_machine(monkeypatch):
    monkeypatch.setattr(measure, "machine", lambda device: MACHINE)


def test_rows_compare_with_the_first_cell(fast_machine, tmp_path, capsys):
    file = tmp_path / "out.json"
    assert main(["criterion", "--only", "6 sets", "--repeats", "1", "--no-memory", "--json", str(file)]) == 0
    document = json.loads(file.read_text())
    rows = document["rows"]
    assert {"suite", "case", "impl", "dtype", "median_s", "peak_mib", "ratio_to", "ratio"} <= set(rows[0])
    assert len({r["ratio_to"] for r in rows}) == 1 and rows[0]["ratio"] == 1.0
    for row in rows:
        assert row["ratio"] == pytest.approx(row["median_s"] / rows[0]["median_s"])
    out = capsys.readouterr().out
    assert all(f"| {r['impl']} |" in out for r in rows)
    assert "assignment solver is" in document["notes"][0] and document["notes"][0] in out


def test_medians_take_turns():
    seen = []
    measure.medians([lambda: seen.append("a"), lambda: seen.append("b")], 2)
    assert seen == list("ababab")


def test_of_several_gpus_the_one_that_works_is_looked_at(monkeypatch):
    looked = []
    monkeypatch.setattr(torch.cuda, "synchronize", looked.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: looked.append(device) or 2**21)
    measure.wait("cuda:1")
    assert measure.peak_mib("cuda:1") == 2 and looked == ["cuda:1", "cuda:1"]


def test_work_of_a_product():
    a, b = torch.randn(8, 16), torch.randn(16, 4)
    flops, moved = measure.work_of(lambda: (a @ b).view(-1))
    assert flops == 2 * 8 * 16 * 4
    assert moved == 4 * (8 * 16 + 16 * 4 + 8 * 4)
    total = torch.zeros(8, 4)
    assert measure.work_of(lambda: total.addmm_(a, b))[0] == flops


def test_peak_is_of_the_process_alone():
    """What this process holds does not count, what the work holds does."""
    here = torch.ones(300 * 2**18)
    code = (
        "import torch; from detrex_ext.benchmark.measure import peak_mib; x = torch.ones({} * 2**18); print(peak_mib())"
    )
    path = os.pathsep.join(p for p in sys.path if p)
    small, large = (
        float(
            subprocess.run(
                [sys.executable, "-c", code.format(n)],
                capture_output=True,
                text=True,
                check=True,
                env={**os.environ, "PYTHONPATH": path},
            ).stdout
        )
        for n in (1, 201)
    )
    assert 190 < large - small < 215
    assert here.numel() and small < measure.peak_mib()


def test_peak_of_a_cell_in_its_own_process():
    cell = next(c for c in suites.cells("criterion", Options()) if c.impl == "detrex_ext")
    spec = suites.spec_of(cell, Options())
    assert suites.find(spec).impl == "detrex_ext"
    assert 100 < measure.peak_alone(spec) < 4000
    with pytest.raises(RuntimeError, match="no cell"):
        measure.peak_alone({**spec, "impl": "nobody"})


def test_limits_and_markdown():
    cells = [Cell("step", "c", impl, dtype, lambda: None) for impl, dtype in (("detrex", "fp32"), ("us", "bf16"))]
    rows = [
        report._row(cell, cells[0], taken, 2.0, peak, 400.0, report._limits((4e9, 2.0**30), cell.dtype, MACHINE))
        for cell, taken, peak in zip(cells, (2.0, 0.5), (400.0, 100.0), strict=True)
    ]
    assert rows[1]["ratio"] == 0.25 and rows[1]["peak_ratio"] == 0.25 and rows[1]["ratio_to"] == "detrex fp32"
    assert rows[1]["gemm_s"] == 2.0 and rows[1]["bandwidth_s"] == 1.0
    assert "| us | bf16 | 500 ms | 0.25 | 100 | 0.25 | 4 | 2.00 s | 1.0 | 1.00 s |" in report.markdown(rows)


def test_price_of_a_set_and_what_detrex_asks_for_it(monkeypatch):
    monkeypatch.setattr(models, "count_sets", lambda host, names: 32 if names else 6)
    base = {"suite": "step", "case": "c", "host": "h", "dtype": "fp32"}
    rows = [
        {**base, "impl": "detrex_ext", "median_s": 1.0, "peak_mib": 500.0},
        {**base, "impl": "detrex_ext+sqr", "median_s": 1.26, "peak_mib": 552.0},
        {**base, "impl": "detrex_ext+sqr", "median_s": 0.63, "peak_mib": 414.0, "dtype": "bf16"},
        {**base, "impl": "detrex+sqr", "median_s": 2.52, "peak_mib": 1104.0},
    ]
    assert report.notes(rows, Options(("sqr",))) == [
        "c: sqr takes 1.26x of the bare time and 1.10x of its memory; it adds 26 sets, 10 ms and 2.0 MiB for each",
        "c: sqr beside detrex+sqr fp32: in fp32 0.50x of the time, 0.50x of the memory; "
        "in bf16 0.25x of the time, 0.38x of the memory",
    ]


def test_cells_of_a_host_and_its_peers():
    """detrex has SQR for DAB-DETR alone, nothing of AdaMixer, and no DINO step without a GPU."""
    cells = suites.cells("step", Options(("sqr", "sqr+dac"), batch=1), with_detrex=True)
    made = {host: [(c.impl, c.dtype) for c in cells if c.host == host and c.side == 320] for host in models.HOSTS}
    ours = [(f"detrex_ext{s}", dtype) for s in ("", "+sqr", "+sqr+dac") for dtype in ("fp32", "bf16")]
    assert made["DAB-DETR R50"] == [("detrex", "fp32"), ("detrex+sqr", "fp32"), *ours]
    assert made["DETR R50"] == [("detrex", "fp32"), *ours]
    assert made["AdaMixer R50"] == made["DINO R50"] == ours
    assert all("batch of 1" in c.case for c in cells)


def test_overrides_reach_the_model_that_another_process_builds():
    options = Options(overrides=("model.decoder.chunk=1",))
    cell = next(c for c in suites.cells("step", options, with_detrex=False) if c.host == "DETR R50")
    spec = json.loads(json.dumps(suites.spec_of(cell, options)))
    assert suites.find(spec).build.args[3] == options
    assert models.model("DETR R50", (), options).decoder.chunk == 1


@pytest.mark.parametrize(
    "argv, says",
    [
        (["step", "--strategies", "nobody"], "no overlay 'nobody'"),
        (["criterion", "--repeats", "0"], "must be 1 or more"),
        (["criterion", "--json", "/no/such/folder/x.json"], "there is no folder"),
        (["criterion", "--device", "abacus"], "--device=abacus: no device that torch can use"),
    ],
)
def test_bad_input_is_one_message(argv, says, capsys):
    assert run(main, argv) == 2
    assert says in capsys.readouterr().err


def test_step_of_the_small_picture_trains():
    """The work of a cell is a whole step: every trained parameter gets its gradient."""
    step = models.step("Deformable-DETR R50", (), 64, Options())
    net = next(x.cell_contents for x in step.__closure__ if isinstance(x.cell_contents, torch.nn.Module))
    trained, got = [p for p in net.parameters() if p.requires_grad], set()
    for p in trained:
        p.register_post_accumulate_grad_hook(lambda p: got.add(id(p)))
    step()
    assert got == {id(p) for p in trained}
    assert all(p.grad is None for p in trained)  # one that waits for its turn holds its weights and no more


def test_agreement_of_a_model_with_itself_and_with_another():
    """Same detections agree exactly; a detection that moved and lost score is found by its class and place."""
    one = Instances((64, 64))
    one.pred_boxes = Boxes(torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]]))
    one.scores, one.pred_classes = torch.tensor([0.9, 0.8]), torch.tensor([1, 2])
    other = Instances((64, 64))
    other.pred_boxes = Boxes(torch.tensor([[20.0, 20, 40, 40.5], [0, 0, 10, 10], [0, 0, 10, 10]]))
    other.scores, other.pred_classes = torch.tensor([0.75, 0.9, 0.1]), torch.tensor([2, 1, 2])
    assert models.agreement([one], [one]) == (0.0, 0.0, 0.0)
    assert models.agreement([one], [other]) == pytest.approx((0.05, 0.0, 0.5))
