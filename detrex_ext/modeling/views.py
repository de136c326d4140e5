"""Parts of a model as a strategy takes them: one with other parts inside, or another of the same form."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

_Module = TypeVar("_Module", bound=nn.Module)


def with_parts(module: _Module, **parts: nn.Module) -> _Module:
    """The module with the named parts instead of its own; all else is shared with it, nothing is copied.

    A view owns nothing: parameters stay where they are registered, and a view is registered nowhere.
    """
    view = copy.copy(module)
    view._modules = {**module._modules, **parts}
    return view


def with_first(module: _Module, **parts: nn.Module) -> _Module:
    """:func:`with_parts` where the module has lists: each part in place of the first of the list of its name."""
    return with_parts(module, **{n: nn.ModuleList([part, *getattr(module, n)[1:]]) for n, part in parts.items()})


def copied(module: _Module) -> _Module:
    """A module of the same form and weights with parameters of its own."""
    # as copies of tensors, for a deep copy of one without values (a model that is only traced) reads memory
    memo = {id(p): nn.Parameter(p.detach().clone(), p.requires_grad) for p in module.parameters()}
    return copy.deepcopy(module, memo)


def another(block: _Module) -> _Module:
    """A block of the same form with first weights of its own, drawn as a decoder's."""
    block = copied(block)
    for m in block.modules():
        if isinstance(m, nn.Linear):
            m.reset_parameters()
            nn.init.xavier_uniform_(m.weight)
        elif isinstance(m, nn.LayerNorm):
            m.reset_parameters()
    return block


def require_layers(decoder: nn.Module, what: str) -> nn.ModuleList:
    """The layers of a decoder.

    Raises:
        ValueError: they have no self-attention and feed-forward block under detrex's names, which ``what`` takes.
    """
    layers = getattr(decoder, "layers", None)
    if not layers or not all(hasattr(x, name) for x in layers for name in ("attentions", "ffns", "norms")):
        raise ValueError(
            f"{what} takes a decoder's layers of self-attention and a feed-forward block (attentions, ffns, norms); "
            f"{type(decoder).__name__} has none"
        )
    return layers
