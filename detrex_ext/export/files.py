"""Exported files: writing them, and running them to see whether they are right."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detrex_ext.checkpoint.files import TEMP_PREFIX
from detrex_ext.errors import UserError
from detrex_ext.layers.ms_deform_backends import exported_as

from .graph import OUTPUTS, FromPixels, Graph

FORMATS = ("onnx", "pt2")
OPSET = 18  # the least that torch writes
_NOTE = "detrex_ext.json"
_BATCH, _SIDE = 1024, 16384  # most images of a batch, and pixels of a side
Run = Callable[[Sequence[Tensor]], tuple[Tensor, ...]]


def need(name: str) -> None:
    """Says what to install.

    Raises:
        UserError: what a format needs is not there.
    """
    wanted = ("onnx", "onnxscript", "onnxruntime") if name == "onnx" else ()
    missing = [package for package in wanted if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(f"--format onnx needs {', '.join(missing)}: pip install 'detrex_ext[export]'")
    if not hasattr(torch.export, "draft_export"):  # came with 2.7
        raise UserError(f"export needs torch 2.7 or newer, this is {torch.__version__}")


def capture(graph: Graph, grid_sample: bool = True) -> torch.export.ExportedProgram:
    """The graph for any number of images, and, with the preprocessing inside, of any size.

    Args:
        graph: of a model.
        grid_sample: whether the graph may hold GridSample.

    Raises:
        UserError: the model does what no graph can hold.
    """
    batch = torch.export.Dim("batch", min=1, max=_BATCH)
    H, W = graph.frame
    if isinstance(graph, FromPixels):
        sides = {k + 1: torch.export.Dim(name, min=1, max=_SIDE) for k, name in enumerate(("height", "width"))}
        given, free = (torch.zeros(3, H + 1, W + 3, 3, dtype=torch.uint8),), {"images": {0: batch, **sides}}
    else:
        given = torch.zeros(3, 3, H, W), torch.tensor([[float(H), float(W)]] * 3)
        free = {"images": {0: batch}, "sizes": {0: batch}}
    with torch.no_grad(), exported_as("torch" if grid_sample else "taps"), _quiet():
        try:
            return torch.export.export(graph, given, dynamic_shapes=free, strict=False)
        except Exception as error:  # of many kinds, from every layer of torch
            raise UserError(
                f"the model cannot be exported: {_first_line(error)}\n"
                "  a part of one's own must be made of torch's operators, and take batches of any size"
            ) from error


def write(program: torch.export.ExportedProgram, path: Path, about: dict[str, Any], opset: int = OPSET) -> None:
    """Writes a file whole, in the format that its name ends with.

    Args:
        program: of :func:`capture`.
        path: ``.onnx`` or ``.pt2``.
        about: goes into it: under their keys, as JSON; in a ``.pt2`` as one file ``detrex_ext.json``.
        opset: of ONNX.

    Raises:
        UserError: the graph has operators that ONNX does not have.
    """
    temporary = path.with_name(f"{TEMP_PREFIX}{path.name}")
    try:
        if path.suffix == ".pt2":
            torch.export.save(program, temporary, extra_files={_NOTE: json.dumps(about)})
        else:
            _write_onnx(program, temporary, about, opset)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_onnx(program: torch.export.ExportedProgram, path: Path, about: dict[str, Any], opset: int) -> None:
    names = {"input_names": about["inputs"], "output_names": list(OUTPUTS)}
    with _quiet():
        try:
            made = torch.onnx.export(program, (), dynamo=True, opset_version=opset, verbose=False, **names)
        except Exception as error:
            raise UserError(f"the model cannot be written as ONNX: {_first_line(error)}\n  try --format pt2") from error
        for node in made.model.graph.all_nodes():
            node.metadata_props.clear()  # where in which file on this machine each came from
            node.doc_string = None
        made.model.metadata_props.update({key: json.dumps(value) for key, value in about.items()})
        made.model.producer_name, made.model.producer_version = "detrex_ext", about["version"]
        made.save(path, external_data=False)


def runner(path: Path) -> Run:
    """A written file as a function of its inputs, run by onnxruntime or torch on the CPU."""
    if path.suffix == ".pt2":
        module = torch.export.load(path).module()
        return lambda given: module(*given)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def run(given: Sequence[Tensor]) -> tuple[Tensor, ...]:
        arrays = {name: x.numpy() for name, x in zip(names, given, strict=True)}
        return tuple(map(torch.from_numpy, session.run(list(OUTPUTS), arrays)))

    return run


def _first_line(error: Exception) -> str:
    """The first line that says something; torch puts reports of many pages behind it."""
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    lines = [line.strip() for line in str(root).splitlines() if line.strip()]
    return f"{type(root).__name__}: {lines[0][:300] if lines else ''}"


@contextmanager
def _quiet():
    """Without what torch's exporters tell about themselves."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [each.level for each in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for each in loggers:
                each.setLevel(logging.ERROR)
            yield
        finally:
            for each, level in zip(loggers, levels, strict=True):
                each.setLevel(level)
