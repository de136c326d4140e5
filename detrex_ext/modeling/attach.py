"""What a detector does with strategies before it trains with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from detrex_ext.strategies import Strategy

    from .detector import Detector


def attach(model: Detector, strategies: Mapping[str, Strategy]) -> nn.ModuleDict:
    """Lets strategies make their parameters and tells the decoder of their routes; those that are modules, by name.

    Raises:
        ValueError: one is no strategy, does not fit the model, or is there twice.
    """
    for name, strategy in strategies.items():
        if not hasattr(strategy, "after_stage"):
            raise ValueError(f"strategies.{name}: expected a Strategy, found {type(strategy).__name__}")
        strategy.check(len(model.decoder.order))
        strategy.attach(model)
    like = next(model.parameters())
    owners = nn.ModuleDict({name: s for name, s in strategies.items() if isinstance(s, nn.Module)})
    if any((p.device, p.dtype) != (like.device, like.dtype) for p in owners.parameters()):
        owners.to(like.device, like.dtype)
    routes = [pair for s in strategies.values() for pair in s.routes(model.decoder).items()]
    if len(dict(routes)) < len(routes):
        raise ValueError(f"strategies {', '.join(strategies)}: two of them are the same, for their sets have one path")
    model.decoder.routes = dict(routes)
    model.decoder.readers = tuple(s for s in strategies.values() if s.reads)
    return owners
