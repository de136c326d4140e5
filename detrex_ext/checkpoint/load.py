"""Weights of a file into a model: names translated, shapes compared, and a report of what fitted."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detrex_ext.errors import UserError

from .files import read_checkpoint
from .layouts import Layout, recognise

_SHOWN = 10
logger = logging.getLogger(__name__)


@dataclass
class LoadReport:
    """What of a file went into a model.

    Attributes:
        matched: our keys that were loaded.
        missing: keys of the model that the file lacks.
        unexpected: keys of the file that the model lacks.
        mismatched: (our key, shape in the file, shape in the model).
        renamed: (key of the file, our key) where they differ.
        layout: name of the table that was used.
    """

    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    renamed: list[tuple[str, str]] = field(default_factory=list)
    layout: str = ""

    @property
    def complete(self) -> bool:
        """Nothing missing, nothing left over, nothing of another shape."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        total = len(self.matched) + len(self.missing) + len(self.mismatched)
        lines = [f"matched {len(self.matched)} of {total} tensors ({self.layout} names)"]
        shapes = [f"{key}: {a} in the file, {b} in the model" for key, a, b in self.mismatched]
        for title, items in (
            ("missing from the file", self.missing),
            ("of another shape", shapes),
            ("not in the model", self.unexpected),
        ):
            if items:
                lines.append(f"{title} ({len(items)}):")
                lines += [f"  {item}" for item in items[:_SHOWN]]
                lines += [f"  ... and {len(items) - _SHOWN} more"] if len(items) > _SHOWN else []
        return "\n".join(lines)


def load_weights(
    model: nn.Module, path: str | os.PathLike, strict: bool = True, source: str = "model"
) -> LoadReport:
    """Loads the weights of any known file into a model: ours, detrex's, torchvision's, detectron2's ``.pkl``.

    The kind of file is told from its keys. A file of a backbone alone is compared with the backbone alone.

    Args:
        model: the model; untouched where this raises.
        path: local path, http(s) or ``detectron2://``.
        strict: every tensor must fit; otherwise what does not fit keeps its value and is logged.
        source: part of the file to read: ``model``, or ``ema_state`` for averaged weights.

    Raises:
        UserError: an unreadable file; one that does not fit under ``strict``; one that fits less than half of the
            model, strict or not.
    """
    data = read_checkpoint(path)
    if source not in data:
        raise UserError(f"checkpoint {path}: holds no '{source}'; it has {', '.join(sorted(map(str, data)))}")
    report = load_state(model, data[source], strict=strict, name=os.fspath(path))
    logger.info("%s: %s", path, report)
    return report


def load_state(model: nn.Module, state: Mapping[str, Any], strict: bool = True, name: str = "state") -> LoadReport:
    """Like ``load_weights``, from a state dict in memory; ``name`` is what messages call it."""
    tensors = _tensors(state, name)
    layout = recognise(tensors)
    own = model.state_dict(keep_vars=True)
    report, chosen = _match(tensors, own, layout)
    total = len(report.matched) + len(report.missing) + len(report.mismatched)
    if 2 * len(report.matched) < total:
        raise UserError(
            f"checkpoint {name}: made by another model, less than half of this one is in it\n{_indent(report)}"
        )
    if strict and not report.complete:
        raise UserError(f"checkpoint {name}: does not fit the model\n{_indent(report)}")
    with torch.no_grad():
        model.load_state_dict(chosen, strict=False)
    return report


def _indent(report: LoadReport) -> str:
    return "  " + str(report).replace("\n", "\n  ")


def _tensors(state: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    """Values as tensors, without the prefix of a wrapped model."""
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        if isinstance(value, np.ndarray | np.generic):
            value = torch.from_numpy(np.ascontiguousarray(value))
        if not isinstance(value, Tensor) or not isinstance(key, str):
            raise UserError(f"checkpoint {name}: entry {key!r} is {type(value).__name__}, expected a tensor")
        out[key] = value
    if out and all(k.startswith("module.") for k in out):
        out = {k[len("module.") :]: v for k, v in out.items()}
    return out


def _match(tensors: dict[str, Tensor], own: Mapping[str, Tensor], layout: Layout) -> tuple[LoadReport, dict]:
    report, chosen = LoadReport(layout=layout.name), {}
    for key, ours in layout.rename(tensors, own).items():
        if ours is None:
            continue
        ours = _place(ours, own)
        if ours not in own:
            report.unexpected.append(key)
        elif ours in chosen:
            if not torch.equal(chosen[ours], tensors[key]):
                report.unexpected.append(key)  # two different tensors for one of ours
        else:
            chosen[ours] = tensors[key]
            if ours != key:
                report.renamed.append((key, ours))
    for key, value in list(chosen.items()):
        if value.shape != own[key].shape:
            report.mismatched.append((key, tuple(value.shape), tuple(own[key].shape)))
            del chosen[key]
    report.matched = list(chosen)
    found = {id(own[k]) for k in chosen} | {id(own[k]) for k, _, _ in report.mismatched}
    lacking = (k for k, v in own.items() if k.startswith(layout.scope) and id(v) not in found)
    report.missing = [k for k in lacking if not k.endswith("num_batches_tracked")]  # a count, not a weight
    return report, chosen


def _place(key: str, own: Mapping[str, Tensor]) -> str:
    """A query source that wraps another keeps its names under ``queries.source``; files of the bare host fit too."""
    inner = key.removeprefix("queries.")
    if key not in own and inner != key:
        for other in (f"queries.source.{inner}", f"queries.{inner.removeprefix('source.')}"):
            if other in own:
                return other
    return key
