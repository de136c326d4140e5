"""A decoder's queries with and without self-attention, beside each other in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import nn

from ..errors import UserError
from ..modeling.decoders.staged import StagedDecoder
from ..strategies.base import Strategy
from ..structures import Queries, SupervisedSet, cat

STREAMS = ("main", "aux", "no_sa")


class _Twins(Strategy):
    """Adds sets of the main queries that see no other query: they leave the plain path after a step, by name."""

    def __init__(self, leave: Mapping[str, int], order: Sequence[int]) -> None:
        self.leave, self.order = dict(leave), order

    def plan(self, order: Sequence[int]) -> Sequence[int]:
        return self.order

    def after_stage(
        self, step: int, history: Sequence[Queries], sets: list[SupervisedSet], q: Queries
    ) -> tuple[list[SupervisedSet], Queries]:
        main = [s for s in sets if (s.group, s.path) == ("main", "plain")]
        for name in (name for name, at in self.leave.items() if at == step):
            q = cat(history[-1].take("main", "plain").retag(path=name, attend=False), q)
            sets = [*sets, *(replace(s, path=name) for s in main)]
        return sets, q


@contextmanager
def decode_streams(model: nn.Module, streams: Sequence[str], start: str = "shared") -> Iterator[None]:
    """While this is held, ``model.decoder`` also emits sets of other streams, as path ``aux`` or ``no_sa``.

    Args:
        model: in evaluation mode; what it predicts is not changed.
        streams: of ``STREAMS``. ``main``: the queries as they are. ``aux``: as divide-and-conquer trains its
            auxiliary sets, see ``DivideAndConquer(start=...)``. ``no_sa``: without self-attention in any stage.
        start: of ``aux``.

    Raises:
        UserError: the model has no staged decoder.
        ValueError: another stream.
    """
    if not set(streams) <= set(STREAMS):
        raise ValueError(f"streams are some of {', '.join(STREAMS)}, got {', '.join(streams)}")
    decoder = getattr(model, "decoder", None)
    if not isinstance(decoder, StagedDecoder):
        raise UserError(
            f"queries are followed through a staged decoder; the decoder of {type(model).__name__} is "
            f"{type(decoder).__name__}"
        )
    leave = {"aux": 0 if start == "shared" else -1, "no_sa": -1}
    twins = _Twins({name: at for name, at in leave.items() if name in streams}, decoder.eval_order)

    def begin(module: nn.Module, args: Any) -> tuple[Any, ...]:
        module.training = True  # strategies act in training; its layers stay in evaluation mode
        return *args[:2], (twins,)

    def end(module: nn.Module, args: Any, sets: Any) -> None:
        module.training = False

    handles = [decoder.register_forward_pre_hook(begin), decoder.register_forward_hook(end, always_call=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
