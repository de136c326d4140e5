"""The steps `inference` and `compiled`: prediction as it is, recorded as CUDA graphs, compiled, and both."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import torch

from detrex_ext.engine.compiling import compile_parts
from detrex_ext.errors import UserError
from detrex_ext.modeling.graphs import Graphs
from detrex_ext.testing import example_batch

from . import speed
from .table import Case, NotHere, Options, Row

_FULL, _QUICK = (800, 1333), (96, 128)
_ROOM = 50.0  # seconds of the first compilation that leave time for the second
_took: list[float] = []


def inference(options: Options) -> list[Case]:
    """Kernel by kernel, then recorded."""
    return [*speed.inference(options), *(_case(batch, options) for batch in (1, 8))]


def compiled(options: Options) -> list[Case]:
    """Compiled, then compiled and recorded."""
    first, *rest = speed.compiled(options)
    return [Case(first.name, partial(_timed, first)), *rest, _case(1, options, compiled=True)]


def _case(batch: int, options: Options, compiled: bool = False) -> Case:
    height, width = _QUICK if options.quick else _FULL
    name = f"{height} x {width}, batch of {batch}, bf16, CUDA graphs"
    return Case(name, partial(recorded, (height, width), batch, "bf16", options, compiled))


def _timed(case: Case) -> Row:
    began = time.monotonic()
    row = case.run()
    _took[:] = [time.monotonic() - began]
    return row


def recorded(size: tuple[int, int], batch: int, dtype: str, options: Options, compiled: bool = False) -> Row:
    """Images a second, and how far scores of two batches, in turn, are from those of the model as it is."""
    if not options.on_gpu:
        raise NotHere("only a CUDA device records graphs")
    if compiled and not (_took and _took[0] < _ROOM):
        raise NotHere(f"a compilation takes more than {_ROOM:g} s, or cannot be made")
    net, _ = speed.predictor(size, batch, dtype, options)
    batches = [example_batch(net.num_classes, (0,) * batch, size, seed) for seed in (0, 1)]
    half = torch.autocast(net.device.type, torch.bfloat16, enabled=dtype == "bf16", cache_enabled=False)
    with torch.no_grad(), half:
        wanted = [_scores(net(items)) for items in batches]
        if compiled:
            compile_parts(net, "all", True, key="compile")
        graphs = Graphs(net)

        def run(items: list[dict[str, Any]] = batches[0]) -> Any:
            images, _ = net.inputs(items)
            sets = graphs(images.images_B3HW, images.valid_hw_B2)
            return net.postprocess(sets, images.image_hw_B2, items)

        try:
            found = [_scores(run(items)) for items in (*batches, *batches)][2:]
        except UserError as error:
            raise NotHere(str(error)) from error
        far = max(float((ours - theirs).abs().max()) for ours, theirs in zip(found, wanted, strict=True))
        return {**speed.measured(run, batch, options), "scores_differ": far}


def _scores(found: list[dict[str, Any]]) -> torch.Tensor:
    """Of the best of each image: post-processing may drop a box that is empty."""
    return torch.stack([one["instances"].scores[:50].clone() for one in found])
