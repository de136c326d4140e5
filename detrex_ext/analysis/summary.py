"""A model in numbers: parameters, operations, memory, and the shapes of what flows from part to part."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from ..errors import UserError
from ..layers import cpu
from ..layers.ms_deform_backends import FORCE
from ..structures import Memory, Queries, SupervisedSet
from .costs import COUNTED, Costs, shapes_only
from .table import table

PARTS = ("backbone", "neck", "encoder", "queries", "decoder")
GIGA, MEBI = 1e9, 2**20


@dataclass
class Part:
    """One part of a detector.

    Attributes:
        parameters, trainable: numbers in it; a tensor that two parts share counts in the first.
        gflops: operations of a forward pass of the batch, in 1e9.
        peak_mib: most memory in use at once while it runs, weights not counted.
        output: what it hands on, with shapes.
    """

    name: str
    parameters: int = 0
    trainable: int = 0
    gflops: float = 0.0
    peak_mib: float = 0.0
    output: list[str] = field(default_factory=list)


@dataclass
class Summary:
    """A detector and one inference pass of it; ``gflops`` and ``peak_mib`` as in ``Part``, of the whole.

    ``of_values``: what there is to do depends on values; counted are the weights as they are, and a gradient as image.
    """

    batch: int
    height: int
    width: int
    dtype: str
    parameters: int
    trainable: int
    buffers: int
    gflops: float
    peak_mib: float
    parts: list[Part]
    of_values: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def text(self) -> str:
        """The same as a table and a list."""
        rows = [["", "parameters", "trainable", "GFLOPs", "peak MiB"]]
        for part in [*self.parts, self]:
            name = getattr(part, "name", "all")
            numbers = (f"{part.parameters:,}", f"{part.trainable:,}", f"{part.gflops:,.2f}", f"{part.peak_mib:,.1f}")
            rows.append([name, *numbers])
        flow = [f"images {self.batch}x3x{self.height}x{self.width}"]
        flow += [f"-> {part.name}: {', '.join(part.output)}" for part in self.parts]
        notes = (
            f"buffers in the state dict: {self.buffers:,} numbers",
            f"one forward pass at inference, {self.dtype}, {self.batch} x {self.height} x {self.width} pixels",
            f"GFLOPs: {COUNTED}",
            "peak: tensors in use at once, without weights and without scratch memory inside operators",
        )
        if self.of_values:
            notes += ("the work depends on the number of proposals: of these weights, with a gradient as the image",)
        return "\n".join([table(rows), "", *flow, "", *notes])


def summarize(model: nn.Module, height: int = 800, width: int = 1333, batch: int = 1) -> Summary:
    """Counts a detector and one inference pass of it, without computing it where shapes are enough.

    Args:
        model: a ``Detector`` of any device, in evaluation or training mode; not changed.
        height: of the images, all of one size, in pixels.
        width: as ``height``.
        batch: how many.

    Raises:
        UserError: a model of other parts.
    """
    lacking = [name for name in PARTS if not isinstance(getattr(model, name, None), nn.Module)]
    if lacking:
        raise UserError(f"{type(model).__name__} is no Detector of this package: it has no {', '.join(lacking)}")
    persistent = model.state_dict(keep_vars=True)
    buffers = sum(v.numel() for k, v in persistent.items() if not isinstance(v, nn.Parameter))
    parts = [Part(name, *_parameters(getattr(model, name), model, name)) for name in PARTS]
    dtype = next(model.parameters()).dtype
    shape, of_values = torch.Size((batch, 3, height, width)), False
    try:
        gflops, peak = _forward(model, shape, dtype, parts, shapes_only())
    except (DynamicOutputShapeException, DataDependentOutputException):  # a choice among proposals
        of_values = True
        gflops, peak = _forward(model, shape, dtype, parts, cpu.switched(False))
    everything = list(model.parameters())
    return Summary(
        batch=batch,
        height=height,
        width=width,
        dtype=str(dtype).removeprefix("torch."),
        parameters=sum(p.numel() for p in everything),
        trainable=sum(p.numel() for p in everything if p.requires_grad),
        buffers=buffers,
        gflops=gflops,
        peak_mib=peak,
        parts=parts,
        of_values=of_values,
    )


def _parameters(module: nn.Module, model: nn.Module, name: str) -> tuple[int, int]:
    """(all, trainable) of a part, less what an earlier part has too."""
    before = {id(p) for other in PARTS[: PARTS.index(name)] for p in getattr(model, other).parameters()}
    own = [p for p in module.parameters() if id(p) not in before]
    return sum(p.numel() for p in own), sum(p.numel() for p in own if p.requires_grad)


def _forward(
    model: nn.Module, shape: torch.Size, dtype: torch.dtype, parts: list[Part], how: AbstractContextManager
) -> tuple[float, float]:
    """Runs the model and fills in what each part cost and gave; returns (GFLOPs, peak MiB) of all."""
    costs, start, peaks = Costs(), {}, []

    def before(part: Part, *_: Any) -> None:
        peaks.append(costs.peak)
        costs.restart()
        start[part.name] = costs.flops

    def after(part: Part, module: nn.Module, args: Any, output: Any) -> None:
        peaks.append(costs.peak)
        part.peak_mib = costs.peak / MEBI
        part.gflops = (costs.flops - start[part.name]) / GIGA
        part.output = list(_described(output))

    with ExitStack() as stack:
        for part in parts:
            module = getattr(model, part.name)
            stack.callback(module.register_forward_pre_hook(partial(before, part)).remove)
            stack.callback(module.register_forward_hook(partial(after, part)).remove)
        stack.callback(model.train, model.training)
        for mode in (mock.patch.dict(os.environ, {FORCE: "torch"}), torch.no_grad(), how, costs):
            stack.enter_context(mode)
        model.eval()
        images = torch.linspace(-1, 1, shape.numel(), dtype=dtype, device=model.device).view(shape)
        model.core(images, torch.tensor([shape[2:]] * shape[0], dtype=dtype, device=model.device))
    return costs.flops / GIGA, max(*peaks, costs.peak) / MEBI


def _described(output: Any) -> Iterator[str]:
    """Shapes of the tensors that a part hands on, with names where it gives some."""
    if isinstance(output, Tensor):
        yield "x".join(map(str, output.shape))
    elif isinstance(output, Memory):
        yield f"tokens {next(_described(output.tokens_BSC))}"
    elif isinstance(output, Queries):
        sets = ", ".join(f"{slot.size} {slot.group}" for slot in output.slots)
        yield f"queries {next(_described(output.content_BTC))} ({sets})"
    elif isinstance(output, SupervisedSet):
        yield f"{output.group} logits {next(_described(output.logits_BQK))}"
    elif isinstance(output, Mapping):
        yield from (f"{name} {shape}" for name, value in output.items() for shape in _described(value))
    elif isinstance(output, list | tuple):
        found = [shape for item in output for shape in _described(item)]
        for shape in dict.fromkeys(found):
            yield f"{found.count(shape)} x {shape}" if found.count(shape) > 1 else shape
