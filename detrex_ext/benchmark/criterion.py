"""Work of the suite `criterion`: all losses of a step and their gradients, from predictions that are given."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from detrex_ext.criterion import FocalLoss, GIoULoss, L1Loss, Rule, SetCriterion, Term
from detrex_ext.matching import FocalClassCost, GIoUCost, HungarianMatcher, L1Cost
from detrex_ext.matching.stack import stack_sets
from detrex_ext.structures import SupervisedSet, Targets

from .measure import Work

IMAGES, QUERIES, CLASSES, OBJECTS = 2, 300, 80, 20


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


def _criterion() -> SetCriterion:
    terms = {"class": Term(FocalLoss(), 1.0), "bbox": Term(L1Loss(), 5.0), "giou": Term(GIoULoss(), 2.0)}
    return SetCriterion([Rule(_matcher(), terms)])


def _sets(logits: list[Tensor], raw: list[Tensor]) -> list[SupervisedSet]:
    return [SupervisedSet(x, r.sigmoid(), n) for n, (x, r) in enumerate(zip(logits, raw, strict=True))]


def losses(sets: int, device: str, at_once: bool = True) -> Work:
    """The criterion called with all sets, or with one set after the other."""
    logits, raw, targets = predictions(sets, device)
    criterion = _criterion()

    def run() -> None:
        every = _sets(logits, raw)
        calls = [every] if at_once else [[one] for one in every]
        total = sum(sum(criterion(call, targets).values()) for call in calls)
        torch.autograd.grad(total, logits + raw)

    return run


def solver(sets: int, device: str) -> Work:
    """The optimal assignments alone, from cost matrices that are given: what nobody's criterion can avoid."""
    logits, raw, targets = predictions(sets, device)
    problem = _matcher().match(stack_sets(_sets(logits, raw)), targets)
    arrays = [x.cpu().numpy() for x in problem.tensors]
    return lambda: problem.solve(arrays)


IMPLEMENTATIONS = {
    "detrex_ext, one set at a time": partial(losses, at_once=False),
    "detrex_ext": losses,
    "assignment solver alone": solver,
}
