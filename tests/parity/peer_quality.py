"""Matchers and criteria of DEIM, Stable-DINO and Rank-DETR on a CPU, from checkouts that ``DETREX_EXT_DEIM``,
``DETREX_EXT_STABLE_DINO`` and ``DETREX_EXT_RANK_DETR`` name; the last two on an importable detrex.

Their modules are imported as they are, without the packages' own ``__init__``, which import whole models. Stand-in:
DEIM's package of data loaders, of which nothing compared is used.
"""

from __future__ import annotations

import importlib
import os
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detrex_ext.config import load_config
from detrex_ext.criterion import SetCriterion
from detrex_ext.runtime import instantiate
from detrex_ext.structures import Given, Pairs, SupervisedSet, Targets

VARIABLES = {"DEIM": "DETREX_EXT_DEIM", "Stable-DINO": "DETREX_EXT_STABLE_DINO", "Rank-DETR": "DETREX_EXT_RANK_DETR"}
FOLDERS = {
    "DEIM": "engine/deim",
    "Stable-DINO": "projects/stabledino/modeling",
    "Rank-DETR": "projects/rank_detr/modeling",
}
if not any(os.environ.get(variable) for variable in VARIABLES.values()):
    pytest.skip(f"needs one of {', '.join(VARIABLES.values())} to name a checkout", allow_module_level=True)
CLASSES, QUERIES, STAGES, GROUPS = 20, 30, 3, 2
Outputs = list[tuple[Tensor, Tensor]]


def official(project: str, *names: str) -> list[types.ModuleType]:
    """Modules of a checkout; the calling test is skipped where there is none."""
    variable = VARIABLES[project]
    root = Path(os.environ.get(variable) or "/nowhere")
    folder = root / FOLDERS[project]
    if not folder.is_dir():
        pytest.skip(f"comparison with {project} needs {variable} to name a checkout of it")
    if project != "DEIM":
        # its own message names what is missing: detrex itself, or what it imports
        pytest.importorskip("detrex.modeling", exc_type=ImportError)
    package = "official_" + project.replace("-", "_").lower()
    if package not in sys.modules:
        _package(package, folder.parent if project == "DEIM" else folder)
        if project == "DEIM":
            for part in ("deim", "misc"):
                _package(f"{package}.{part}", folder.parent / part)
            _package(f"{package}.data", folder).DataLoader = None
    inner = f"{package}.deim" if project == "DEIM" else package
    return [importlib.import_module(f"{inner}.{name}") for name in names]


def _package(name: str, folder: Path) -> types.ModuleType:
    made = types.ModuleType(name)
    made.__path__ = [str(folder)]
    sys.modules[name] = made
    return made


def scene(counts: Sequence[int], seed: int, spread: float = 1.5) -> tuple[Targets, dict[str, Outputs]]:
    """Objects, and outputs of queries, of proposals and of denoising, by stage.

    Every object has a query near it. Classes are different over the whole batch, and no box is nearer to an object of
    another image than the best is to its own: see the README. ``spread`` is that of logits.
    """
    g = torch.Generator().manual_seed(seed)
    B, most = len(counts), max(max(counts), 1)
    kinds = torch.randperm(CLASSES, generator=g).split([*counts, CLASSES - sum(counts)])[:B]
    boxes = tuple(0.2 + 0.4 * torch.rand(n, 4, generator=g, dtype=torch.float64) for n in counts)

    def predictions(size: int, around: float) -> tuple[Tensor, Tensor]:
        at = 0.2 + 0.5 * torch.rand(B, size, 4, generator=g, dtype=torch.float64)
        for image, own in enumerate(boxes):
            if len(own):
                near = torch.arange(0, size, 2)
                noise = around * (torch.rand(len(near), 4, generator=g, dtype=torch.float64) - 0.5)
                at[image, near] = own[near % len(own)] + noise
        logits = spread * torch.randn(B, size, CLASSES, generator=g, dtype=torch.float64) - 1
        return logits.requires_grad_(), at.requires_grad_()

    made = {
        "main": [predictions(QUERIES, 0.1) for _ in range(STAGES)],
        "enc": [predictions(2 * QUERIES, 0.1)],
        "dn": [predictions(2 * most * GROUPS, 0.2) for _ in range(STAGES)],
    }
    return Targets(tuple(kinds), boxes, torch.ones(B, 2)), made


def denoised(targets: Targets) -> tuple[Pairs, list[Tensor]]:
    """Which denoising query is a copy of which object, flat, and the queries of each image."""
    most = max(*targets.counts, 1)
    rows, queries = [], []
    for image, start in enumerate(targets.offsets_B.tolist()):
        mine = [(r * 2 * most + i, i) for r in range(GROUPS) for i in range(targets.counts[image])]
        rows += [(0, image, query, start + i) for query, i in mine]
        queries.append(torch.tensor([query for query, _ in mine], dtype=torch.int64))
    return Pairs(*torch.tensor(rows, dtype=torch.int64).reshape(-1, 4).T), queries


def as_theirs(stages: Outputs) -> dict[str, Any]:
    """Their nested outputs."""
    flat = [{"pred_logits": logits, "pred_boxes": boxes} for logits, boxes in stages]
    return {**flat[-1], "aux_outputs": flat[:-1]}


def leaves(made: dict[str, Outputs], *groups: str) -> list[Tensor]:
    """What losses are differentiated in."""
    return [x for group in groups for stage in made[group] for x in stage]


def our_losses(
    config: str, made: dict[str, Outputs], targets: Targets, overrides: Sequence[str] = (), progress: float = 0.0
) -> dict[str, Tensor]:
    """Losses of the rules of a shipped config."""
    cfg = load_config(config, overrides=list(overrides))
    sets = []
    for group, stages in made.items():
        given = Given(denoised(targets)[0], float(GROUPS)) if group == "dn" else Given()
        for i, (logits, boxes) in enumerate(stages):
            sets.append(SupervisedSet(logits, boxes, -1 if group == "enc" else i, group, given=given))
    rules = instantiate(cfg.model.rules)
    return SetCriterion({group: rules[group] for group in made})(sets, targets, progress=progress)
