"""A whole official model beside ours of a shipped config: inputs, and what is compared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detrex_ext.checkpoint import load_state, load_weights
from detrex_ext.config import load_config
from detrex_ext.modeling.detector import Detector
from detrex_ext.modeling.queries import TwoStageQueries
from detrex_ext.runtime import instantiate
from detrex_ext.structures import SupervisedSet, Targets

from .checkout import build, disturb
from .forced import choose, double_by_default, same_choice
from .gaps import far, within

NUM_CLASSES, STAGES = 91, 6
SIZES, OBJECTS = [(240, 272), (256, 232)], (4, 7)


@dataclass
class Inputs:
    """Images of unequal sizes with objects, some of which reach the border or are tiny."""

    images: list[Tensor]
    targets: Targets

    def keep(self, number: int | None) -> None:
        """No more than so many objects of an image; None = all."""
        t = self.targets
        labels, boxes = (tuple(x[:number] for x in each) for each in (t.labels, t.boxes))
        self.targets = Targets(labels, boxes, t.image_hw_B2)

    def theirs(self, times: int = 1) -> list[dict[str, Tensor]]:
        """Objects in their form, each so many times."""
        return theirs(self.targets, times)


def theirs(targets: Targets, times: int = 1) -> list[dict[str, Tensor]]:
    """Objects in the authors' form, each so many times."""
    pairs = zip(targets.labels, targets.boxes, strict=True)
    return [{"labels": x.repeat(times), "boxes": y.repeat(times, 1)} for x, y in pairs]


def inputs(dtype: torch.dtype) -> Inputs:
    """Always the same; objects of an image have different classes, as what becomes of equal ones is undefined there."""
    g = torch.Generator().manual_seed(5)
    images = [torch.randn(3, h, w, generator=g).to(dtype) for h, w in SIZES]
    labels = tuple(torch.randperm(NUM_CLASSES - 1, generator=g)[:n] + 1 for n in OBJECTS)
    boxes = tuple((0.25 + 0.3 * torch.rand(n, 4, generator=g)).to(dtype) for n in OBJECTS)
    boxes[0][0] = torch.tensor([0.5, 0.5, 1.0, 1.0])  # the whole image
    boxes[1][0] = torch.tensor([0.3, 0.6, 5e-4, 3e-4])
    boxes[1][1] = torch.tensor([0.02, 0.97, 0.04, 0.06])  # in a corner
    return Inputs(images, Targets(labels, boxes, torch.tensor(SIZES).to(dtype)))


@dataclass
class Pair:
    """Their model and criterion, and ours of a shipped config, filled from the file that theirs wrote."""

    peer: nn.Module
    criterion: nn.Module
    ours: Detector
    cfg: Any


def pair(load: Any, flags: list[str], config: str, overrides: list[str], folder: Path, dtype: torch.dtype) -> Pair:
    """Both with the same disturbed weights, in training."""
    torch.manual_seed(1)
    peer, criterion = build(load, flags, folder)
    disturb(peer)
    torch.save({"model": peer.state_dict(), "epoch": 11}, folder / "checkpoint.pth")
    cfg = load_config(config, (), [f"model.num_classes={NUM_CLASSES}", *overrides]).model
    ours = instantiate(cfg)
    report = load_weights(ours, folder / "checkpoint.pth")
    assert report.complete and not report.unexpected and not report.dropped
    return Pair(peer.to(dtype), criterion, ours.to(dtype).train(), cfg)


def run_ours(ours: Detector, given: Inputs, chosen_BQ: Tensor) -> tuple[list[SupervisedSet], Any]:
    """All sets, and the losses of the config's rules, with their proposals, which in double are ours too."""
    source = next(m for m in ours.modules() if isinstance(m, TwoStageQueries))
    own = choose(source, chosen_BQ)
    dtype, sizes = given.images[0].dtype, given.targets.image_hw_B2
    batch = given.images[0].new_zeros(len(given.images), 3, *(max(side) for side in zip(*SIZES, strict=True)))
    for row, image in zip(batch, given.images, strict=True):
        row[:, : image.shape[1], : image.shape[2]] = image
    with double_by_default() if dtype == torch.float64 else nullcontext():
        sets = ours.core(batch, sizes, given.targets)
        losses = ours.criterion(sets, given.targets)
    assert torch.equal(own[0], chosen_BQ) if dtype == torch.float64 else same_choice(own[0], chosen_BQ) > 0.99
    return sets, losses


def stages(outputs: dict[str, Any], last: str = "", key: str = "", aux: str = "") -> Iterator[tuple[Tensor, Tensor]]:
    """Logits and boxes of every stage of the authors' nested outputs, by what stands behind their names."""
    for one in outputs[f"aux_outputs{aux}"]:
        yield one[f"pred_logits{key}"], one[f"pred_boxes{key}"]
    yield outputs[f"pred_logits{last}"], outputs[f"pred_boxes{last}"]


def compare_sets(what: str, sets: list[SupervisedSet], tags: tuple[str, str], wanted: Any, tolerance: float) -> None:
    """All stages of one group and path."""
    own = [s for s in sets if (s.group, s.path) == tags and s.stage >= 0]
    assert [s.stage for s in own] == list(range(STAGES))
    for one, (logits, boxes) in zip(own, wanted, strict=True):
        within(f"{what}, logits", far(one.logits_BQK, logits), tolerance)
        within(f"{what}, boxes", far(one.boxes_BQ4, boxes), tolerance)


def compare_gradients(what: str, both: Pair, tolerance: float) -> None:
    """Every gradient of theirs, which their layout brings to ours, as a share of its largest entry."""
    found = {k: p.grad for k, p in both.peer.named_parameters(remove_duplicate=False) if p.grad is not None}
    brought = instantiate(both.cfg).to(next(both.ours.parameters()).dtype)
    report = load_state(brought, {**both.peer.state_dict(), **found})
    assert report.complete and not report.unexpected
    compared = 0
    for a, b in zip(both.ours.parameters(), brought.parameters(), strict=True):
        if a.grad is not None:
            within(what, far(a.grad, b) / (float(b.detach().abs().max()) or 1.0), tolerance)
            compared += 1
    assert compared >= len({id(g) for g in found.values()})  # heads have two names there


def names_of_losses(path: str, theirs: str) -> Iterator[tuple[str, str]]:
    """Our statistics per stage, of the plain path and another, and what a criterion of DETR's kind calls them."""
    for term, short in {"class": "ce", "bbox": "bbox", "giou": "giou"}.items():
        yield f"stage-1/loss_{term}_enc", f"loss_{short}_enc"
        for i in range(STAGES):
            at = "" if i == STAGES - 1 else f"_{i}"
            yield f"stage{i}/loss_{term}", f"loss_{short}{at}"
            yield f"stage{i}/loss_{term}_{path}", f"loss_{short}{at}_{theirs}"
