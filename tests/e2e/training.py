"""A training small enough for tests, run in processes that can be killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path

import narrow
import torch

from detrex_ext.config import load_config

# imported once, in the process that the tests' processes are forked from
PRELOAD = [
    "detrex_ext.engine",
    "detrex_ext.modeling.backbones",
    "detrex_ext.criterion",
    "detrex_ext.data",
    "detrex_ext.evaluation",
    "pycocotools.cocoeval",
    "faster_coco_eval",
    "torch.utils.tensorboard",
]
TIMES = ("time", "data_time", "eta_seconds", "rank_data_time")
MAX_ITER = 10


def overrides(data: Path, out: Path) -> list[str]:
    """``configs/small.py`` narrow, on a small data set, for a few steps."""
    short = [
        "model.decoder.num_layers=2",
        "dataloader.train.total_batch_size=4",
        "train.amp.enabled=false",
        "train.seed=3",
        f"train.max_iter={MAX_ITER}",
        "train.eval_period=4",
        "train.checkpointer.period=2",
        "train.log_period=3",
    ]
    return [*narrow.overrides(data, out), *short]


def config(data: Path, out: Path, *more: str):
    """``configs/small.py`` made narrow, on a small data set."""
    return load_config("small", (), [*overrides(data, out), *more])


class Flags:
    """What the command line would give."""

    config_file = ""

    def __init__(self, resume: bool = False) -> None:
        self.resume = resume


def train(data: Path, out: Path, more: tuple[str, ...] = (), resume: bool = False, sabotage=None) -> None:
    """One training in this process; ``sabotage(out)`` is called first and may plant the end of the process."""
    from detrex_ext import engine

    torch.set_num_threads(1)
    if sabotage is not None:
        sabotage()
    engine.train(config(data, out, *more), Flags(resume))


def start_process(target, *args, **kwargs) -> multiprocessing.Process:
    """``target`` in a process of its own, started."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=target, args=args, kwargs=kwargs)
    process.start()
    return process


def in_process(target, *args, **kwargs) -> int:
    """Exit code of ``target`` in a process of its own; negative for a signal."""
    process = start_process(target, *args, **kwargs)
    process.join()
    return process.exitcode


def die() -> None:
    """The process ends here and now, as by ``kill -9``."""
    os.kill(os.getpid(), signal.SIGKILL)


def metrics(out: Path) -> list[dict]:
    """Lines of metrics.json without times."""
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


def assert_same_run(a: Path, b: Path) -> None:
    """Weights, averages, optimizer, random states and metrics of two finished runs, bit for bit."""
    assert metrics(a) == metrics(b)
    one, two = (torch.load(out / "model_final.pth", weights_only=True) for out in (a, b))
    assert_equal({k: one[k] for k in ("model", "ema_state", "rng")}, {k: two[k] for k in ("model", "ema_state", "rng")})
    assert_equal(one["trainer"]["optimizer"], two["trainer"]["optimizer"])
    assert_equal(one["trainer"]["hooks"], two["trainer"]["hooks"])
    best_a, best_b = (torch.load(out / "model_best.pth", weights_only=True)["model"] for out in (a, b))
    assert_equal(best_a, best_b)


def assert_equal(a, b, where: str = "") -> None:
    """Nested values are equal to the bit."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}.{i}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where
