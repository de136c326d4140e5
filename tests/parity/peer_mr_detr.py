"""The official Mr. DETR (Visual-AI/Mr.DETR) on a CPU, from a checkout of it: ``DETREX_EXT_MR_DETR=/path/to/it``.

It is a copy of detrex with one project more, on detectron2, which must be importable.
"""

from __future__ import annotations

import importlib
import os
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

from .forced import cuda_is_the_cpu

VARIABLE = "DETREX_EXT_MR_DETR"
ROOT = Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None
PROJECTS = {"deformable": "projects/mr_detr_deformable", "dino": "projects/mr_detr_dino"}
OWN = ("detrex", "projects")
# imported, and used by nothing that is compared
STAND_INS = {
    "detrex._C": {},
    "fairscale": {},
    "fairscale.nn": {},
    "fairscale.nn.checkpoint": {"checkpoint_wrapper": None},
}


def skip_without_checkout() -> None:
    """Skip the calling module, with the reason, where there is no checkout, or no detectron2."""
    if ROOT is None or not (ROOT / PROJECTS["dino"]).is_dir():
        pytest.skip(f"comparison with Mr. DETR needs {VARIABLE} to name a checkout of it", allow_module_level=True)
    pytest.importorskip("detectron2", reason="comparison with Mr. DETR needs detectron2")


@contextmanager
def modules_of_checkout() -> Iterator[Any]:
    """``load(name)`` imports a module of the checkout, while this is held; then others' are back in their places."""
    replaced = {k: v for k, v in sys.modules.items() if k.split(".")[0] in (*OWN, "fairscale")}
    for name in replaced:
        del sys.modules[name]
    for name, content in STAND_INS.items():
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = []
        vars(sys.modules[name]).update(content)
    try:
        path = mock.patch.object(sys, "path", [str(ROOT), *sys.path])
        # importing it registers data sets, which detrex itself or an earlier import may have done
        catalog = type(importlib.import_module("detectron2.data").DatasetCatalog)
        with path, mock.patch.object(catalog, "register", lambda *_: None), cuda_is_the_cpu():
            yield importlib.import_module
    finally:
        for name in [k for k in sys.modules if k.split(".")[0] in (*OWN, "fairscale")]:
            del sys.modules[name]
        sys.modules.update(replaced)


def build(project: str, queries: int) -> nn.Module:
    """The model of a project's deformable_detr_r50_two_stage_12ep_plusplus.py, with so many queries, at random."""
    config = importlib.import_module("detectron2.config")
    model = config.LazyConfig.load(str(ROOT / PROJECTS[project] / "configs/models/deformable_detr_r50.py")).model
    model.update(with_box_refine=True, as_two_stage=True, mixed_selection=True, num_queries=queries, device="cpu")
    model.transformer.mixed_selection = True
    for part in (model.transformer.encoder, model.transformer.decoder):
        part.update(feedforward_dim=2048, attn_dropout=0.0, ffn_dropout=0.0)
    model.transformer.decoder.look_forward_twice = True
    # all candidates are drawn: they are less than a quarter of 900, which their assigner takes for the queries
    return config.instantiate(model).train()


def outputs_and_losses(peer: nn.Module, items: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What its criterion is given, and its weighted losses."""
    seen: list[dict[str, Any]] = []
    with peer.criterion.register_forward_pre_hook(lambda _, given: seen.append(dict(given[0]))):
        losses = peer(items)
    return seen[0], losses
