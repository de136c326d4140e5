"""The official DAC-DETR (huzhengdongcs/DAC-DETR) on a CPU, from a checkout of it: ``DETREX_EXT_DAC=/path/to/it``."""

from __future__ import annotations

import os
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from detrex_ext.config import load_config
from detrex_ext.criterion import Rule, rules_by_group
from detrex_ext.runtime import instantiate
from detrex_ext.structures import Targets

from . import checkout
from .forced import cuda_is_the_cpu
from .gaps import relative, within
from .whole import NUM_CLASSES

VARIABLE = "DETREX_EXT_DAC"
ROOT = Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None
CONFIG = "dac_cdn_ice_r50_12ep"
# of configs/r50_deformplus_cdn_ice_ep12.sh
FLAGS = (
    "--with_box_refine --two_stage --dim_feedforward 2048 --num_queries_one2one 900 --epochs 12 --lr_drop 11 "
    "--dropout 0.0 --mixed_selection --look_forward_twice"
).split()
PARTS = ("onetomany", "matcher", "deformable_detr")


def skip_without_checkout() -> None:
    """Skip the calling module, with the reason, where there is no checkout."""
    checkout.skip_without_checkout(ROOT, VARIABLE, "DAC-DETR")


@contextmanager
def official_package() -> Iterator[types.SimpleNamespace]:
    """``load``, and the parts of the official package ``models`` by name, while this is held."""
    with checkout.modules_of(ROOT) as load, cuda_is_the_cpu():
        yield types.SimpleNamespace(load=load, **{name: load(f"models.{name}") for name in PARTS})


def our_rules() -> list[Rule]:
    """Those of the shipped config: IoU-aware classification in all streams but the encoder's."""
    model = load_config(CONFIG).model
    host = rules_by_group(instantiate(model.rules))
    return [*instantiate(model.strategies.dac).rules(host), *host.values()]


def names_of_losses(stages: int) -> Iterator[tuple[str, str]]:
    """Our statistics per stage, group and path, and what their criterion calls them."""
    for term, short in {"class": "ce", "bbox": "bbox", "giou": "giou"}.items():
        yield f"stage-1/loss_{term}_enc", f"loss_{short}_enc"
        for i in range(stages):
            at = "" if i == stages - 1 else f"_{i}"
            streams = {"": f"{at}_one2one", "_aux": at, "_dn": f"_dn{at}_one2one", "_dn_aux": f"_dn{at}"}
            for stream, key in streams.items():
                yield f"stage{i}/loss_{term}{stream}", f"loss_{short}{key}"


def criterion(official: types.SimpleNamespace) -> nn.Module:
    """Their criterion with the published weights of the matcher."""
    matcher = official.matcher.HungarianMatcher(2, 5, 2)
    return official.deformable_detr.SetCriterion(NUM_CLASSES, matcher, {}, ["labels", "boxes"]).train()


def published_weight(name: str) -> float:
    """Of a loss of theirs, as ``build`` has it for the published flags."""
    return {"bbox": 5.0, "giou": 2.0}.get(name.split("_")[1], 2.0 if name.endswith("_enc") else 1.0)


def objects(counts: Sequence[int], g: torch.Generator) -> Targets:
    """Objects of an image have different classes: what becomes of equal ones is undefined in the original."""
    labels = tuple(torch.randperm(NUM_CLASSES - 1, generator=g)[:n] + 1 for n in counts)
    boxes = tuple(0.25 + 0.3 * torch.rand(n, 4, generator=g, dtype=torch.float64) for n in counts)
    return Targets(labels, boxes, torch.ones(len(counts), 2))


def compare(
    what: str,
    found: dict[str, Tensor],
    wanted: dict[str, Tensor],
    weights: Callable[[str], float],
    stages: int,
    tolerance: float,
) -> None:
    """All losses, encoder's and stages', of both branches and of denoising in both."""
    pairs = list(names_of_losses(stages))
    assert len(pairs) == 3 * (1 + 4 * stages)
    for ours, theirs in pairs:
        within(what, relative(found[ours], weights(theirs) * wanted[theirs]), tolerance)
