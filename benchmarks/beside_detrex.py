#!/usr/bin/env python
"""The suites of `python -m detrex_ext benchmark` with detrex's implementation first in each case, where it has one.

    python benchmarks/beside_detrex.py step --only "320 px" --strategies sqr --repeats 5
    python benchmarks/beside_detrex.py criterion

Arguments are those of the verb. detrex only builds its sampling layer where `detrex._C` imports; an empty module of
that name is enough on a CPU.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detrex_ext.benchmark import attention, criterion, models, report, suites
from detrex_ext.benchmark.measure import Options, Work
from detrex_ext.benchmark.suites import Cell
from detrex_ext.checkpoint.load import load_state
from detrex_ext.cli import benchmark as verb
from detrex_ext.cli import run
from detrex_ext.errors import UserError
from detrex_ext.runtime import Instances

# detrex's model file of each host, bare and with a strategy
FILES = {
    ("DETR R50", ()): "detr/configs/models/detr_r50.py",
    ("DAB-DETR R50", ()): "dab_detr/configs/models/dab_detr_r50.py",
    ("DAB-DETR R50", ("sqr",)): "sqr_detr/configs/models/dab_detr_r50_sqr.py",
    ("Deformable-DETR R50", ()): "deformable_detr/configs/models/deformable_detr_r50.py",
    ("DINO R50", ()): "dino/configs/models/dino_r50.py",
}
_DEFORMABLE = "projects.deformable_detr.modeling"


@functools.cache
def why_no_detrex() -> str | None:
    """Why detrex's Deformable-DETR cannot be built here; None where it can."""
    for name in ("detectron2", "detrex", "detrex._C", _DEFORMABLE):
        try:
            importlib.import_module(name)
        except ImportError as error:
            return f"{name}: {error}"
    return None


def _node(file: str) -> tuple[Any, Callable[[Any], Any]]:
    """The model node of a file below detrex's `projects`, and what instantiates it."""
    config = importlib.import_module("detectron2.config")
    projects = Path(importlib.import_module(_DEFORMABLE).__file__).parents[2]
    return config.LazyConfig.load(str(projects / file)).model, config.instantiate


def model(host: str, strategies: Sequence[str], options: Options) -> nn.Module:
    """detrex's model with random weights, dropout as published."""
    torch.manual_seed(0)
    node, instantiate = _node(FILES[host, tuple(strategies)])
    node.device, node.num_classes, node.criterion.num_classes = options.device, models.CLASSES, models.CLASSES
    return instantiate(node).to(options.device)


def step(host: str, strategies: Sequence[str], side: int, options: Options) -> Work:
    """Forward, loss and backward of detrex's model."""
    return models.training(model(host, strategies, options), side, options, "fp32")


def predict(host: str, strategies: Sequence[str], side: int, options: Options) -> Work:
    """Prediction of detrex's model."""
    return models.prediction(model(host, strategies, options), side, options, "fp32")


def losses(sets: int, device: str) -> Work:
    """detrex's criterion of Deformable-DETR, which takes one set after the other."""
    logits, raw, targets = criterion.predictions(sets, device)
    node, instantiate = _node(FILES["Deformable-DETR R50", ()])
    node.criterion.num_classes = criterion.CLASSES
    theirs = instantiate(node.criterion)
    weights = {name: w for name, w in theirs.weight_dict.items() if name.count("_") == 1}
    objects = [{"labels": x, "boxes": b} for x, b in zip(targets.labels, targets.boxes, strict=True)]

    def work() -> None:
        outputs = [{"pred_logits": x, "pred_boxes": r.sigmoid()} for x, r in zip(logits, raw, strict=True)]
        found = theirs({**outputs[-1], "aux_outputs": outputs[:-1]}, objects)
        total = sum(v * weights[stem] for k, v in found.items() for stem in weights if k.startswith(stem))
        torch.autograd.grad(total, logits + raw)

    return work


def sampling(device: str, side: int, queries: int | None = None) -> Work:
    """detrex's deformable sampling in plain torch."""
    (value, at, weight), shapes, upstream = attention.points(device, side, queries)
    sample = importlib.import_module("detrex.layers.multi_scale_deform_attn").multi_scale_deformable_attn_pytorch
    hw = torch.tensor(shapes, device=device)
    return lambda: torch.autograd.grad(sample(value, hw, at, weight), (value, at, weight), upstream)


def cells(suite: str, options: Options) -> Iterator[Cell]:
    """Ours, and before the first of each case detrex's."""
    last = None
    for cell in suites.cells(suite, options):
        if cell.case != last:
            for name, build in _theirs(cell, options):
                yield Cell(suite, cell.case, name, "fp32", build, cell.host, cell.side)
        last = cell.case
        yield cell


def _theirs(cell: Cell, options: Options) -> Iterator[tuple[str, Callable[[], Work]]]:
    if cell.suite == "criterion":
        if "sets" in cell.build.keywords:
            yield "detrex", partial(losses, cell.build.keywords["sets"], options.device)
    elif cell.suite == "attention":
        if cell.case in attention.SAMPLING:
            yield "detrex", partial(sampling, options.device, **attention.SAMPLING[cell.case])
    # detrex makes denoising queries on a CUDA device only
    elif (cell.suite, cell.host, options.device) != ("step", "DINO R50", "cpu"):
        for names in ((), *(tuple(s.split("+")) for s in options.strategies)):
            if (cell.host, names) in FILES:
                build = step if cell.suite == "step" else predict
                yield "+".join(("detrex", *names)), partial(build, cell.host, names, cell.side, options)


def notes(rows: Sequence[report.Row], options: Options) -> list[str]:
    """What the verb says, how strategies compare, and how far the detections are apart."""
    by = {(r["impl"], r["dtype"]): r for r in rows}
    found = report.notes(rows, options)
    if rows[0]["suite"] == "step":
        found += [_beside(by, names) for names in options.strategies if (f"detrex+{names}", "fp32") in by]
    if rows[0]["suite"] == "inference" and ("detrex", "fp32") in by:
        found += [_agreement(r, options) for (impl, _), r in by.items() if impl == "detrex_ext"]
    return found


def _beside(by: Mapping[tuple[str, str], report.Row], names: str) -> str:
    theirs, texts = by[(f"detrex+{names}", "fp32")], []
    for dtype in ("fp32", "bf16"):
        row = by[(f"detrex_ext+{names}", dtype)]
        text = f"in {dtype} {row['median_s'] / theirs['median_s']:.2f}x of the time"
        if row["peak_mib"] is not None:
            text += f", {row['peak_mib'] / theirs['peak_mib']:.2f}x of the memory"
        texts.append(text)
    return f"{theirs['case']}: {names} beside detrex+{names} fp32: {'; '.join(texts)}"


def _agreement(row: report.Row, options: Options) -> str:
    score, median, largest = agreement_with_detrex(row["host"], row["side"], options, row["dtype"])
    return (
        f"{row['case']}: with the same weights the 100 best detections of {row['dtype']} differ from detrex's by at "
        f"most {score:.2g} in score and {largest:.2g} px in a box, half of them by less than {median:.2g} px"
    )


def agreement_with_detrex(host: str, side: int, options: Options, dtype: str) -> tuple[float, float, float]:
    """:func:`agreement` of detrex's model and ours with its weights, moved away from their degenerate start."""
    theirs, ours = model(host, (), options), models.model(host, (), options)
    make = torch.Generator(options.device).manual_seed(0)
    with torch.no_grad():
        for p in theirs.parameters():
            if p.dim() == 1 or p.shape[0] in (4, models.CLASSES):
                p.add_(0.1 * torch.randn(p.shape, generator=make, device=p.device))
    load_state(ours, theirs.state_dict(), name="detrex's model")
    ours.preprocess.parity_padding = True
    return agreement(*(models.prediction(net, side, options, d)() for net, d in ((theirs, "fp32"), (ours, dtype))))


def agreement(
    expected: Sequence[Instances], found: Sequence[Instances], best: int = 100
) -> tuple[float, float, float]:
    """How far the ``best`` detections of each image are from the nearest of their class in another answer.

    Nearest, so that a swap of two equal scores is no difference.

    Returns:
        Largest difference in score; median and largest difference in a box coordinate, in pixels.
    """
    scores, boxes = [], []
    for a, b in zip(expected, found, strict=True):
        a = a[:best]
        apart = (a.pred_boxes.tensor[:, None] - b.pred_boxes.tensor[None]).abs().amax(-1)
        apart = apart.masked_fill(a.pred_classes[:, None] != b.pred_classes[None], float("inf"))
        distance, index = apart.min(1)
        boxes.append(distance)
        scores.append((a.scores - b.scores[index]).abs())
    box = torch.cat(boxes)
    return float(torch.cat(scores).max()), float(box.median()), float(box.max())


def main(argv: Sequence[str] | None = None) -> int:
    """The verb, with detrex measured beside.

    Raises:
        UserError: detrex cannot be imported, or as the verb says.
    """
    if why_no_detrex():
        raise UserError(
            f"detrex cannot be measured here, as it cannot be imported: {why_no_detrex()}\n"
            "  install it, or measure ours alone: python -m detrex_ext benchmark"
        )
    return verb.main(argv, cells, notes)


if __name__ == "__main__":
    sys.exit(run(main))
