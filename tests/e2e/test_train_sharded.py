"""FSDP, buckets and compressed gradients in two processes, beside DDP as it is."""

from __future__ import annotations

import math
import shutil
import sys

import pytest
import torch
from torch.distributed import fsdp
from training import in_process, metrics, overrides

from detrex_ext.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow
needs_fsdp = pytest.mark.skipif(
    not hasattr(fsdp, "fully_shard"), reason=f"torch {torch.__version__} has no FSDP2"
)
SHORT = (
    "train.max_iter=6",
    "train.eval_period=3",
    "train.checkpointer.period=3",
    "train.log_period=1",
    "train.clip_grad.enabled=true",
    "train.model_ema.enabled=false",
    "train.channels_last=false",
)


def by_command(*argv):
    from detrex_ext.cli import run
    from detrex_ext.cli.train import main

    torch.set_num_threads(1)
    sys.exit(run(main, argv))


def trained(data, out, *more, processes=2):
    argv = ["--config-file", "small", *overrides(data, out), *SHORT, *more, "--num-gpus", str(processes)]
    return in_process(by_command, *argv)


@pytest.fixture(scope="module")
def ddp(shapes_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("ddp")
    assert trained(shapes_data, out) == 0
    return out


def assert_close(a, b, tolerance):
    one, two = metrics(a), metrics(b)
    assert [line["iteration"] for line in one] == [line["iteration"] for line in two]
    for x, y in zip(one, two, strict=True):
        assert x.keys() == y.keys()
        for name in x:
            both, wide = (x[name], y[name]), 100 if name == "grad_norm" else 1  # rounding flips a ReLU
            near = {"rel_tol": wide * tolerance, "abs_tol": tolerance}
            assert both == (None, None) or math.isclose(*both, **near), (name, *both)
    one, two = (read_checkpoint(str(out / "model_final.pth")) for out in (a, b))
    assert one["model"].keys() == two["model"].keys()
    for name, tensor in one["model"].items():
        assert type(two["model"][name]) is torch.Tensor
        torch.testing.assert_close(two["model"][name], tensor, rtol=tolerance, atol=tolerance, msg=name)
    assert one["trainer"]["optimizer"]["state"].keys() == two["trainer"]["optimizer"]["state"].keys()


@needs_fsdp
def test_sharded_weights_train_as_those_of_ddp(shapes_data, ddp, tmp_path):
    assert trained(shapes_data, tmp_path, "train.fsdp=true", "train.activation_checkpointing=decoder") == 0
    assert_close(ddp, tmp_path, 1e-5)
    assert "FSDP: this process holds" in (tmp_path / "log.txt").read_text()


@needs_fsdp
def test_micro_batches(shapes_data, tmp_path):
    # of one image and one cell batch norm has no statistics
    more = ("train.accumulate_steps=2", "model.backbone.norm=FrozenBN", "model.neck.norm=FrozenBN")
    for name, kind in (("ddp", "false"), ("fsdp", "true")):
        assert trained(shapes_data, tmp_path / name, *more, f"train.fsdp={kind}") == 0
    assert_close(tmp_path / "ddp", tmp_path / "fsdp", 1e-5)


@needs_fsdp
def test_a_run_of_whole_weights_goes_on_sharded_and_then_in_one_process(shapes_data, ddp, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(ddp, out)
    (out / "last_checkpoint").write_text("model_0000002.pth")
    assert trained(shapes_data, out, "--resume", "train.fsdp=true") == 0
    assert_close(ddp, out, 1e-5)
    (out / "last_checkpoint").write_text("model_0000002.pth")
    assert trained(shapes_data, out, "--resume", processes=1) == 0
    assert metrics(out)[-1]["iteration"] == 6


@pytest.mark.parametrize(
    ("more", "tolerance"), [("train.ddp.bucket_cap_mb=1", 1e-6), ("train.ddp.bf16_compression=true", 3e-2)]
)
def test_gradients_in_other_buckets_or_in_bf16(shapes_data, ddp, tmp_path, more, tolerance):
    assert trained(shapes_data, tmp_path, more) == 0
    assert_close(ddp, tmp_path, tolerance)
