"""A pass of a model, watched from inside."""

from __future__ import annotations

from collections.abc import Callable

from detrex_ext.modeling.detector import Detector
from detrex_ext.structures import Memory, Queries


def watch(model: Detector, batch: list[dict], look: Callable[..., None]) -> None:
    """Run a batch and call ``look(stage, layer, queries, memory)`` before each stage."""
    stage = model.decoder._stage

    def watched(layer: int, q: Queries, mem: Memory) -> tuple:
        look(stage, layer, q, mem)
        return stage(layer, q, mem)

    model.decoder._stage = watched
    try:
        model.forward_sets(batch)
    finally:
        del model.decoder._stage


def entering(model: Detector, batch: list[dict]) -> list[Queries]:
    """The queries that enter each stage of a pass."""
    seen: list[Queries] = []
    watch(model, batch, lambda stage, layer, q, mem: seen.append(q))
    return seen


def initial(model: Detector, batch: list[dict]) -> tuple[Queries, Memory]:
    """The first queries and the memory of a batch."""
    found: list[tuple[Queries, Memory]] = []
    hook = model.decoder.register_forward_pre_hook(lambda _, args: found.append((args[0], args[1])))
    try:
        model.forward_sets(batch)
    finally:
        hook.remove()
    return found[0]
