#!/usr/bin/env python
"""The suite `step` of `python -m detrex_ext benchmark` for both TSPs, their authors' code first in each case.

    export DETREX_EXT_TSP=path/to/TSP-Detection DETREX_EXT_RUNTIME=detectron2
    python benchmarks/beside_tsp.py --only "320 px" --repeats 3

Arguments are those of the verb. Their code runs under today's torch with the stand-ins of `tests/parity/peer_tsp.py`,
and needs detectron2. Dropout is as published, but never in place: there it breaks their backward pass.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detrex_ext.benchmark import models, suites
from detrex_ext.benchmark.measure import Options, Work
from detrex_ext.benchmark.suites import Cell
from detrex_ext.cli import benchmark as verb
from detrex_ext.cli import run
from detrex_ext.errors import UserError
from detrex_ext.runtime import EventStorage

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "parity"))
import peer_tsp  # noqa: E402

# file, options of their script, and last: no token is dropped at random, or two steps would differ in their work
FILES = {
    "tsp_fcos_r50_3x": (
        "Base-FCOS-TSP.yaml", peer_tsp.FCOS_SCRIPT, "MODEL.FCOS.RANDOM_PROPOSAL_DROP", "False"
    ),
    "tsp_rcnn_r50_3x": (
        "Base-RCNN-TSP.yaml", peer_tsp.RCNN_SCRIPT, "MODEL.ROI_BOX_HEAD.RANDOM_PROPOSAL_DROP", "False"
    ),
}  # fmt: skip
_OURS = "model.encoder.token_keep=1.0"


class Official(nn.Module):
    """The authors' model where it can write its statistics; its answer is that of a training step."""

    def __init__(self, host: str) -> None:
        super().__init__()
        self.model = peer_tsp.build(*FILES[host], dropout=0.1, moved=False)

    def forward(self, items: Sequence[Mapping[str, Any]]) -> Any:
        """Losses by name."""
        with EventStorage(0):
            return self.model(items)


def step(host: str, side: int, options: Options) -> Work:
    """Forward, loss and backward of the authors' model."""
    torch.manual_seed(0)
    return models.training(Official(host), side, options, "fp32")


def cells(suite: str, options: Options) -> Iterator[Cell]:
    """Ours, and before the first of each case theirs."""
    last = None
    for cell in suites.cells(suite, options):
        if cell.case != last and cell.host in FILES:
            theirs = partial(step, cell.host, cell.side, options)
            yield Cell(suite, cell.case, "the authors' code", "fp32", theirs, cell.host, cell.side)
        last = cell.case
        yield cell


def main(argv: Sequence[str] | None = None) -> int:
    """The verb, with the authors' code measured beside.

    Raises:
        UserError: there is no checkout of it.
    """
    if peer_tsp.ROOT is None:
        raise UserError(f"{peer_tsp.VARIABLE} must name a checkout of TSP-Detection, which is measured here")
    configs = [word for host in FILES for word in ("--config-file", host)]
    return verb.main(["step", _OURS, *configs, *(sys.argv[1:] if argv is None else argv)], cells)


if __name__ == "__main__":
    sys.exit(run(main))
