#!/usr/bin/env python
"""What the engine costs beside the work itself: the loop, the loader, the COCO evaluation.

    python benchmarks/engine.py loop                               # of `make quickstart`'s model, on its data
    python benchmarks/engine.py loader --images DIR --json FILE    # and detectron2's, where it can be imported
    python benchmarks/engine.py evaluation                         # and faster-coco-eval alone

Each is measured in turn with what it is compared with, in one process, and told as medians; the machine must be idle.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import torch

from detrex_ext import get_config
from detrex_ext.config import build
from detrex_ext.data import CocoDataset, DetrMapper, RandomFlip, ResizeShortestEdge, build_train_loader
from detrex_ext.data.shapes import write
from detrex_ext.engine import (
    EMAHook,
    IterationTimer,
    LRScheduler,
    ModelEMA,
    PeriodicWriter,
    Precision,
    Trainer,
    build_optimizer,
    default_writers,
)
from detrex_ext.engine.optim import clipping
from detrex_ext.engine.schedule import build_schedule
from detrex_ext.runtime.peers import detectron2_loader

STEPS = 40  # of a turn
Works = dict[str, Callable[[], float]]


def in_turn(works: Works, turns: int) -> dict[str, float]:
    """The median of what each gives, measured in turn after one turn that does not count."""
    for work in works.values():
        work()
    found = [{name: work() for name, work in works.items()} for _ in range(turns)]
    return {name: statistics.median(turn[name] for turn in found) for name in works}


class Cycle:
    """Batches that lie in memory, without end."""

    def __init__(self, batches: list) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator:
        return itertools.cycle(self.batches)


def loop() -> Works:
    """Seconds of a step by the trainer, with its hooks and writers, and of its forward, backward and update alone."""
    cfg = get_config("quickstart.py")
    with tempfile.TemporaryDirectory() as folder:
        write(folder, 64, 1)
        data = CocoDataset(f"{folder}/train.json", f"{folder}/images")
        mapper = build(cfg.dataloader.train.mapper, "mapper", object)
        batches = build_train_loader(dataset=data, mapper=mapper, total_batch_size=8, num_workers=0, seed=0)
        batches = list(itertools.islice(iter(batches), 6))
    cfg.model.num_classes = len(data.class_names)
    return {"trainer": lambda: _trained(cfg, batches), "alone": lambda: _alone(cfg, batches)}


def _trained(cfg, batches: list) -> float:
    torch.manual_seed(0)
    model = build(cfg.model, "model", torch.nn.Module)
    optimizer, average = build_optimizer(cfg, model), ModelEMA(model, cfg.train.model_ema.decay, True)
    trainer = Trainer(model, Cycle(batches), optimizer, precision=Precision("cpu", **cfg.train.amp),
                      clip_grad=clipping(cfg.train.clip_grad, model))  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        writers = default_writers(folder, STEPS)
        hooks = [IterationTimer(), EMAHook(average), LRScheduler(scheduler=build_schedule(cfg))]
        trainer.register_hooks([*hooks, PeriodicWriter(writers)])
        start = time.perf_counter()
        trainer.train(0, STEPS)
        return (time.perf_counter() - start) / STEPS


def _alone(cfg, batches: list) -> float:
    torch.manual_seed(0)
    model = build(cfg.model, "model", torch.nn.Module).train()
    optimizer, precision = build_optimizer(cfg, model), Precision("cpu", **cfg.train.amp)
    clip = clipping(cfg.train.clip_grad, model)
    start = time.perf_counter()
    for batch in itertools.islice(itertools.cycle(batches), STEPS):
        optimizer.zero_grad(set_to_none=True)
        with precision.autocast():
            losses = model(batch)
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), **clip)
        optimizer.step()
    return (time.perf_counter() - start) / STEPS


def loader(file: str, folder: str, workers: int = 2, count: int = 256) -> Works:
    """Images per second, resized to a short side of 480 and flipped, by two workers."""
    works = {"ours": lambda: _rate(_ours(file, folder, workers), count)}
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = detectron2_loader(file, folder, 4, workers)
    if theirs is not None:
        works["detectron2"] = lambda: _rate(theirs, count)
    return works


def _rate(loader, count: int) -> float:
    batches = iter(loader)
    for _ in range(4):
        next(batches)
    start = time.perf_counter()
    for _ in range(count // 4):
        next(batches)
    return count / (time.perf_counter() - start)


def _ours(file: str, folder: str, workers: int):
    mapper = DetrMapper(augmentation=[ResizeShortestEdge(480, 800), RandomFlip()], is_train=True)
    return build_train_loader(dataset=CocoDataset(file, folder), mapper=mapper, total_batch_size=4, num_workers=workers)


def evaluation() -> Works:
    """Seconds for the metrics of 5,000 images of 100 detections: ours, and faster-coco-eval by itself."""
    from engine_evaluation import works  # needs faster-coco-eval, which the others do not

    return works()


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("loop", "loader", "evaluation"))
    parser.add_argument("--turns", type=int, default=5, metavar="N")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--images", metavar="DIR")
    args = parser.parse_args()
    if args.what == "loader" and not (args.json and args.images):
        parser.error("loader needs --json and --images")
    works = {"loop": loop, "loader": lambda: loader(args.json, args.images)}.get(args.what, evaluation)()
    found = in_turn(works, args.turns)
    first = next(iter(found.values()))
    print("\n".join(f"{name}: {value:.4g} (x {first / value:.3f})" for name, value in found.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
