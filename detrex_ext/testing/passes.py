"""A pass of a model, seen from between its stages."""

from __future__ import annotations

from collections.abc import Sequence

from detrex_ext.modeling.detector import Detector
from detrex_ext.strategies import Strategy
from detrex_ext.structures import Memory, Queries, SupervisedSet


class _Entering(Strategy):
    """Keeps the layers of a pass and what enters each; the last of the strategies, it sees what they made of it."""

    def __init__(self) -> None:
        self.order: Sequence[int] = ()
        self.seen: list[Queries] = []

    def plan(self, order: Sequence[int]) -> Sequence[int]:
        self.order = tuple(order)
        return order

    def after_stage(
        self, step: int, history: Sequence[Queries], sets: list[SupervisedSet], q: Queries
    ) -> tuple[list[SupervisedSet], Queries]:
        self.seen.append(q)
        return sets, q


def entering(model: Detector, batch: list[dict]) -> tuple[Memory, list[tuple[int, Queries]]]:
    """The memory of a training pass, and each stage's layer with the queries that enter it."""
    images, targets = model.inputs(batch)
    q, mem, _ = model.encode(images.images_B3HW, images.valid_hw_B2, targets)
    strategies, watch = model.strategies.values(), _Entering()
    _, q = model.begin(strategies, q, mem, targets)
    mem = model.decoder.prepare(mem)
    model.decoder(q, mem, [*strategies, watch])
    return mem, list(zip(watch.order, watch.seen, strict=False))  # nothing enters after the last stage


def initial(model: Detector, batch: list[dict]) -> tuple[Queries, Memory]:
    """The first queries of a batch, and its memory as stages take it."""
    images, targets = model.inputs(batch)
    q, mem, _ = model.encode(images.images_B3HW, images.valid_hw_B2, targets)
    return q, model.decoder.prepare(mem)
