"""A source around the host's own, in a config."""

from __future__ import annotations

import re
from typing import Any

from omegaconf import DictConfig, ListConfig

_RELATIVE = re.compile(r"\$\{(\.+)")


def wrap_source(model: Any, wrapper: Any) -> Any:
    """Puts a source around the host's own, inside denoising where there is.

    Args:
        model: a config's ``model``; changed in place.
        wrapper: a ``LazyCall`` of a source, without its ``source``.

    Returns:
        ``model``.
    """
    holder, key = model, "queries"
    while "source" in holder[key]:
        holder, key = holder[key], "source"
    wrapper.source = holder[key]
    _one_deeper(wrapper.source)
    holder[key] = wrapper
    return model


def _one_deeper(node: DictConfig | ListConfig, depth: int = 0) -> None:
    """References that lead out of the node start one level further inside."""

    def longer(found: re.Match) -> str:
        return found[0] + "." * (len(found[1]) - 1 > depth)

    for key in list(node) if isinstance(node, DictConfig) else range(len(node)):
        child = node._get_node(key)
        value = child._value()
        if isinstance(value, str):
            node[key] = _RELATIVE.sub(longer, value)
        elif isinstance(child, DictConfig | ListConfig):
            _one_deeper(child, depth + 1)
