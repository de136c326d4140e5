"""Rows, tables and memory of the benchmark, on its cheapest cells."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch

from detrex_ext.benchmark import measure, models, report, sampling, suites, targets
from detrex_ext.benchmark.measure import Options
from detrex_ext.benchmark.suites import Cell
from detrex_ext.cli import run
from detrex_ext.cli.benchmark import main
from detrex_ext.errors import UserError

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
    assert all(f"| {r['impl']} " in out for r in rows)
    assert "assignment solver is" in document["notes"][0] and document["notes"][0] in out


def test_passes_of_sampling_by_backend_and_type(fast_machine, monkeypatch, capsys):
    monkeypatch.setattr(sampling, "SIZE", (40, 70))
    assert main(["sampling", "--only", "DINO", "--repeats", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    titles = [line for line in lines if line.startswith("**sampling: decoder of DINO")]
    assert [title.split(",")[-1].split("**")[0] for title in titles] == [" forward", " backward"]
    rows = [tuple(cell.strip() for cell in line.split("|")[1:3]) for line in lines if line.startswith("| ")]
    expected = [(impl, dtype) for dtype in ("fp32", "bf16", "fp16") for impl in ("torch", "cpu")]
    assert [row for row in rows if row[1] in sampling.TYPES] == 2 * expected


def test_an_encoder_samples_around_each_token(monkeypatch):
    monkeypatch.setattr(sampling, "SIZE", (40, 70))
    (value, at, weight), shapes, upstream = sampling.inputs_of("cpu", "bf16", 3, None)
    assert shapes[0] == (5, 9) and value.dtype == torch.bfloat16 and at.dtype == weight.dtype == torch.float32
    assert value.shape[:2] == at.shape[:2] == weight.shape[:2] == upstream.shape[:2] == (3, 45 + 15 + 6 + 2)
    assert (at[0, 12, :, 0].mean((0, 1)) - torch.tensor([3.5 / 9, 1.5 / 5])).abs().max() < 0.3


def test_tiles_are_of_a_gpu():
    with pytest.raises(UserError, match="--device cuda"):
        suites.cells("tiles", Options())
    work = sampling.tile_work
    for which, cuts in sampling.TILES.items():
        for cut in cuts:  # as another process builds it
            pickle.loads(pickle.dumps(partial(work, "cuda", cut, "bf16", which, 300)))


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
    assert 100 < measure.peak_alone(cell.build) < 4000
    with pytest.raises(LookupError):  # what goes wrong there is said here
        measure.peak_alone(partial({}.__getitem__, "nothing"))


def test_both_ways_to_the_targets_of_fcos_say_the_same():
    found = [c.build()() for c in suites.cells("criterion", Options()) if c.case == targets.CASE]
    assert len(found) == 2 and torch.equal(*found) and (found[0] >= 0).any()


def test_limits_and_markdown():
    cells = [Cell("step", "c", impl, dtype, lambda: None) for impl, dtype in (("detrex", "fp32"), ("us", "bf16"))]
    rows = [
        report._row(cell, cells[0], taken, 2.0, peak, 400.0, report._limits((4e9, 2.0**30), cell.dtype, MACHINE))
        for cell, taken, peak in zip(cells, (2.0, 0.5), (400.0, 100.0), strict=True)
    ]
    assert rows[1]["ratio"] == 0.25 and rows[1]["peak_ratio"] == 0.25 and rows[1]["ratio_to"] == "detrex fp32"
    assert rows[1]["gemm_s"] == 2.0 and rows[1]["bandwidth_s"] == 1.0
    line = report.markdown(rows).splitlines()[-1]
    assert line.replace(" ", "") == "|us|bf16|500ms|0.25|100|0.25|4|2.00s|1.0|1.00s|"


def test_price_of_a_set(monkeypatch):
    monkeypatch.setattr(models, "count_sets", lambda host, names, options: 32 if names else 6)
    base = {"suite": "step", "case": "c", "host": "h", "dtype": "fp32"}
    rows = [
        {**base, "impl": "detrex_ext", "median_s": 1.0, "peak_mib": 500.0},
        {**base, "impl": "detrex_ext+sqr", "median_s": 1.26, "peak_mib": 552.0},
        {**base, "impl": "detrex_ext+sqr", "median_s": 0.63, "peak_mib": 414.0, "dtype": "bf16"},
    ]
    assert report.notes(rows, Options(("sqr",))) == [
        "c: sqr takes 1.26x of the bare time and 1.10x of its memory; it adds 26 sets, 10 ms and 2.0 MiB for each"
    ]


def test_cells_of_the_hosts_and_of_ones_own_config():
    options = Options(("sqr", "sqr+dac"), batch=1)
    found = suites.cells("step", options)
    assert list(dict.fromkeys(c.host for c in found)) == list(models.HOSTS)
    ours = [(f"detrex_ext{s}", dtype) for s in ("", "+sqr", "+sqr+dac") for dtype in ("fp32", "bf16")]
    assert [(c.impl, c.dtype) for c in found if c.host == "DETR R50" and c.side == 320] == ours
    assert all("batch of 1" in c.case for c in found)
    own = suites.cells("inference", replace(options, configs=("small", "x/mine.py")))
    assert list(dict.fromkeys(c.case for c in own)) == ["small, 640 px, batch of 1", "x/mine.py, 640 px, batch of 1"]


def test_a_model_of_ones_own_under_overlays_and_overrides():
    options = Options(overrides=("model.decoder.chunk=1", "model.num_classes=3"), overlays=("tiny",), batch=1)
    net = models.model("deformable_detr_r50_50ep", ("sqr",), options)
    assert net.decoder.chunk == 1 and net.num_classes == 3 and net.strategies
    assert sum(p.numel() for p in net.parameters()) < 5e6
    (cell,) = [
        c for c in suites.cells("step", replace(options, configs=("deformable_detr_r50_50ep",)))
        if (c.impl, c.dtype, c.side) == ("detrex_ext", "fp32", 320)
    ]  # fmt: skip
    pickle.loads(pickle.dumps(cell.build))()()  # as another process builds it; labels are of its three classes


@pytest.mark.parametrize(
    "argv, says",
    [
        (["step", "--strategies", "nobody"], "no overlay 'nobody'"),
        (["criterion", "--repeats", "0"], "must be 1 or more"),
        (["criterion", "--json", "/no/such/folder/x.json"], "there is no folder"),
        (["step", "--overlay", "nobody"], "no overlay 'nobody'"),
        (["step", "--only", "nobody"], "no case whose name contains 'nobody'"),
        (["criterion", "--device", "abacus"], "--device=abacus: no device that torch can use"),
    ],
)
def test_bad_input_is_one_message(argv, says, capsys):
    assert run(main, argv) == 2
    assert says in capsys.readouterr().err


def test_step_of_the_small_image_trains():
    """The work of a cell is a whole step: every trained parameter gets its gradient."""
    step = models.step("Deformable-DETR R50", (), 64, Options())
    net = next(x.cell_contents for x in step.__closure__ if isinstance(x.cell_contents, torch.nn.Module))
    trained, got = [p for p in net.parameters() if p.requires_grad], set()
    for p in trained:
        p.register_post_accumulate_grad_hook(lambda p: got.add(id(p)))
    step()
    assert got == {id(p) for p in trained}
    assert all(p.grad is None for p in trained)  # one that waits for its turn holds its weights and no more
