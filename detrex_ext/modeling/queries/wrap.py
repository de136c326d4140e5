"""A source around the host's own, in a config."""

from __future__ import annotations

from typing import Any


def wrap_source(model: Any, wrapper: Any) -> Any:
    """Puts a source around the host's own, inside denoising where there is.

    Args:
        model: a config's ``model``; changed in place. References in its queries are absolute, as ``load_config`` makes
            them.
        wrapper: a ``LazyCall`` of a source, without its ``source``.

    Returns:
        ``model``.
    """
    holder, key = model, "queries"
    while "source" in holder[key]:
        holder, key = holder[key], "source"
    wrapper.source = holder[key]
    holder[key] = wrapper
    return model
