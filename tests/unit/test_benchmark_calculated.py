"""Memory and scaling by calculation, against what a CPU's allocator counts and against sums by hand."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from detrex_ext.analysis.costs import shapes_only
from detrex_ext.benchmark import largest, peak, scaling
from detrex_ext.benchmark.as_on_gpu import as_on_gpu
from detrex_ext.benchmark.peak import GIB, Sizes
from detrex_ext.cli.benchmark import main
from detrex_ext.config import load_config
from detrex_ext.engine.setup import settle
from detrex_ext.errors import UserError
from detrex_ext.layers import cpu
from detrex_ext.layers.ms_deform_backends import FORCE

NARROW = ("tiny", {"dim": 64, "ffn_dim": 128, "num_layers": 2, "num_queries": 30, "number": 10, "dropout": 0.1})
SIZES = Sizes(256, 320, "fp32", (5, 2))


def config(name="dino_r50_4scale_12ep", *overrides):
    cfg = load_config(name, (NARROW,), ("model.num_classes=4", "train.model_ema.enabled=false", *overrides))
    settle(cfg)
    return cfg


def allocated(work):
    """Most bytes that torch's allocator of the CPU had out at once during a call, beside those before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        work()
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.slow
def test_a_calculated_peak_is_what_the_allocator_counts(monkeypatch):
    monkeypatch.setenv(FORCE, "torch")
    cfg = config()
    calculated = peak.peak(cfg, 2, SIZES, gpu=False)
    with cpu.switched(False):
        model, optimizer = peak.built(cfg)
        work = peak.step(model, optimizer, peak.images(2, SIZES, 4), "fp32")
        work()
        optimizer.zero_grad(set_to_none=True)
        counted = allocated(work)
    assert calculated.weights == sum(4 * p.numel() for p in model.parameters()) + peak.bytes_of(model.buffers())
    standing = calculated.weights + calculated.moments
    assert calculated.total - standing == pytest.approx(counted, rel=0.05)
    assert 0.5 < calculated.kept / counted < 1


@pytest.mark.slow
def test_what_takes_less_is_calculated_as_less():
    whole = peak.peak(config(), 2, SIZES)
    half = peak.peak(config(), 2, Sizes(256, 320, "bf16", (5, 2)))
    again = peak.peak(config("dino_r50_4scale_12ep", "train.activation_checkpointing=all"), 2, SIZES)
    assert half.kept < 0.85 * whole.kept and again.kept < 0.95 * whole.kept
    assert half.weights == again.weights == whole.weights
    more = peak.peak(config("dino_r50_4scale_12ep", "train.model_ema.enabled=true"), 1, Sizes(256, 320, "fp32", (5,)))
    assert more.total > peak.peak(config(), 1, Sizes(256, 320, "fp32", (5,))).total


@pytest.mark.parametrize("kink", [1000, 10, 3])
@pytest.mark.parametrize("gib", [0.5, 2.0, 3.0, 23.5, 79.1])
def test_the_largest_batch_is_one_that_fits_and_none_fits_beside_it(kink, gib):
    asked = []

    def total(batch):
        asked.append(batch)
        return int((1 + batch + 3 * max(0, batch - kink)) * GIB)

    assert largest._largest(total, gib * GIB) == max((b for b in range(1, 99) if total(b) <= gib * GIB), default=0)
    assert len(set(asked) - set(range(1, 99))) == 0


def test_attention_on_a_gpu_keeps_no_map():
    x = torch.randn(2, 8, 300, 16, requires_grad=True)
    bias = torch.zeros(300, 300, requires_grad=True)
    kept = []
    keep = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t)
    with shapes_only(), as_on_gpu(), keep:
        y = nn.functional.scaled_dot_product_attention(x, x, x, bias, 0.1)
        dropped = nn.functional.dropout(y, 0.5)
    assert y.shape == x.shape and dropped.shape == x.shape
    assert max(t.numel() for t in kept) <= max(x.numel(), bias.numel())
    assert any(t.dtype == torch.bool for t in kept)


def test_objects_are_those_of_the_most_crowded_images(tmp_path):
    boxes = [{"id": 10 * i + k + 1, "image_id": i, "category_id": 1, "bbox": [1, 1, 8, 8], "area": 64, "iscrowd": 0}
             for i, n in enumerate((2, 5, 3), 1) for k in range(n)]  # fmt: skip
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 32, "height": 32} for i in (1, 2, 3)]
    (tmp_path / "a.json").write_text(
        json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "x"}]})
    )
    assert peak.most_crowded(str(tmp_path / "a.json"), 2) == (5, 3)


@pytest.mark.slow
def test_the_command_of_memory(capsys, tmp_path):
    flags = ["--config-file", "dino_r50_4scale_12ep", "--overlay", "tiny", "--size", "64x96", "--batch", "1"]
    out = tmp_path / "rows.json"
    assert main(["memory", *flags, "--no-largest", "--objects", "3", "--json", str(out), "model.dim=32"]) == 0
    row = json.loads(out.read_text())[0]
    assert row["total"] > row["weights"] + row["moments"] and row["measured"] is None and row["largest"] == {}
    assert f"{row['total'] / GIB:.2f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [(["--size", "0x5"], "expected HEIGHTxWIDTH"), (["--batch", "0"], "1 to 4096"), (["--size", "٣x4"], "HEIGHTxWIDTH"),
     (["--objects", "-1"], "expected 0 or more"), (["--device", "cuda:77"], "there is no GPU|only")],
)  # fmt: skip
def test_what_cannot_be_calculated_is_told(flags, said):
    with pytest.raises(UserError, match=said):
        main(["memory", "--config-file", "dino_r50_4scale_12ep", *flags])


def test_buckets_fill_in_the_order_of_the_backward_pass():
    gradients = [(0.1, 2**20 // 2), (0.2, 2**20), (0.5, 30 * 2**20), (0.9, 2**20), (1.0, 4)]
    first, second, last = scaling.buckets(gradients)
    assert first == (0.2, 3 * 2**19) and second == (0.5, 30 * 2**20) and last == (1.0, 2**20 + 4)
    assert scaling.buckets(gradients, 1000) == [(1.0, sum(n for _, n in gradients))]


def test_a_step_waits_for_what_the_backward_pass_does_not_cover():
    network = scaling.Network(8, per_machine=1, start=0, hop=0)  # 1e9 bytes a second
    work = scaling.Work(3.0, ((0.5, 10**9), (1.0, 10**9)))
    found = scaling.simulate(work, 2, network, cap=1)
    # ready at 2 s and 3 s; a second each, so the last byte is through at 4 s
    assert found["seconds"] == pytest.approx(4.0) and found["efficiency"] == pytest.approx(0.75)
    assert found["hidden"] == pytest.approx(0.5)
    assert scaling.simulate(work, 2, network, 1, 2)["seconds"] == pytest.approx(3.5)
    assert scaling.simulate(work, 1, network)["efficiency"] == 1.0
    # inside a machine nothing passes the network between them
    assert scaling.simulate(work, 8, scaling.Network(1e-9))["efficiency"] > 0.99
    many = [scaling.simulate(work, n, scaling.Network(25))["efficiency"] for n in (8, 32, 64)]
    assert many == sorted(many, reverse=True)


@pytest.mark.slow
def test_the_command_of_scaling(capsys):
    flags = ["--config-file", "dino_r50_4scale_12ep", "--overlay", "tiny", "--size", "64x96", "--step-ms", "100"]
    assert main(["scaling", *flags, "--json", "-", "model.dim=32"]) == 0
    fp32, bf16 = json.loads(capsys.readouterr().out)
    assert fp32["step_s"] == 0.1 and bf16["bytes"] * 2 == fp32["bytes"] and len(fp32["steps"]) == 6
    assert main(["scaling", *flags, "--gpus", "2", "model.dim=32"]) == 0
    assert "2 GPUs, 25 Gbit/s |" in capsys.readouterr().out
    with pytest.raises(UserError, match="more than 0"):
        main(["scaling", *flags, "--gpus", "0"])
