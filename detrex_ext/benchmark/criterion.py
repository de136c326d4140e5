"""Work of the suite `criterion`: all losses of a step and their gradients, from predictions that are given."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from detrex_ext.criterion import FocalLoss, GIoULoss, L1Loss, Rule, SetCriterion, Term
from detrex_ext.matching import FocalClassCost, GIoUCost, HungarianMatcher, L1Cost
from detrex_ext.matching.stack import stack_sets
from detrex_ext.runtime import peers
from detrex_ext.structures import SupervisedSet, Targets

from .measure import Work

IMAGES, QUERIES, CLASSES, OBJECTS = 2, 300, 80, 20


def implementations(with_detrex: bool) -> dict[str, Callable[[int, str], Work]]:
    """Name -> maker of the work for so many sets. detrex's is a loop over the sets, as in its criterion."""
    found: dict[str, Callable[[int, str], Work]] = {}
    if with_detrex:
        found["detrex"] = detrex
    found["detrex_ext, one set at a time"] = loop
    found["detrex_ext"] = together
    found["assignment solver alone"] = solver
    return found


def predictions(sets: int, device: str) -> tuple[list[Tensor], list[Tensor], Targets]:
    """Logits (B, Q, K) and raw boxes (B, Q, 4) of each set as leaves, and the objects."""
    make = torch.Generator().manual_seed(0)
    logits = [torch.randn(IMAGES, QUERIES, CLASSES, generator=make) - 4 for _ in range(sets)]
    raw = [torch.randn(IMAGES, QUERIES, 4, generator=make) for _ in range(sets)]
    labels = tuple(torch.randint(CLASSES, (OBJECTS,), generator=make) for _ in range(IMAGES))
    scale, least = torch.tensor([0.6, 0.6, 0.3, 0.3]), torch.tensor([0.2, 0.2, 0.05, 0.05])
    boxes = tuple(least + scale * torch.rand(OBJECTS, 4, generator=make) for _ in range(IMAGES))
    targets = Targets(labels, boxes, torch.full((IMAGES, 2), 480.0)).to(device)
    leaves = [[x.to(device).requires_grad_() for x in xs] for xs in (logits, raw)]
    return leaves[0], leaves[1], targets


def _matcher() -> HungarianMatcher:
    return HungarianMatcher(costs=[FocalClassCost(2.0), L1Cost(5.0), GIoUCost(2.0)])


def _ours() -> SetCriterion:
    terms = {"class": Term(FocalLoss(), 1.0), "bbox": Term(L1Loss(), 5.0), "giou": Term(GIoULoss(), 2.0)}
    return SetCriterion([Rule(_matcher(), terms)])


def _sets(logits: list[Tensor], raw: list[Tensor]) -> list[SupervisedSet]:
    return [SupervisedSet(x, r.sigmoid(), n) for n, (x, r) in enumerate(zip(logits, raw, strict=True))]


def together(sets: int, device: str) -> Work:
    """Ours, all sets at once."""
    logits, raw, targets = predictions(sets, device)
    criterion = _ours()

    def run() -> None:
        loss = sum(criterion(_sets(logits, raw), targets).values())
        torch.autograd.grad(loss, logits + raw)

    return run


def loop(sets: int, device: str) -> Work:
    """Ours, a call for each set."""
    logits, raw, targets = predictions(sets, device)
    criterion = _ours()

    def run() -> None:
        loss = sum(sum(criterion([one], targets).values()) for one in _sets(logits, raw))
        torch.autograd.grad(loss, logits + raw)

    return run


def detrex(sets: int, device: str) -> Work:
    """detrex's criterion of Deformable-DETR, which takes one set after the other."""
    logits, raw, targets = predictions(sets, device)
    criterion = peers.detrex_criterion(sets, CLASSES)
    objects = [{"labels": x, "boxes": b} for x, b in zip(targets.labels, targets.boxes, strict=True)]

    def run() -> None:
        outputs = [{"pred_logits": x, "pred_boxes": r.sigmoid()} for x, r in zip(logits, raw, strict=True)]
        losses = criterion({**outputs[-1], "aux_outputs": outputs[:-1]}, objects)
        torch.autograd.grad(sum(losses.values()), logits + raw)

    return run


def solver(sets: int, device: str) -> Work:
    """The optimal assignments alone, from cost matrices that are given: what nobody's criterion can avoid."""
    logits, raw, targets = predictions(sets, device)
    problem = _matcher().match(stack_sets(_sets(logits, raw)), targets)
    arrays = [x.cpu().numpy() for x in problem.tensors]
    return lambda: problem.solve(arrays)
