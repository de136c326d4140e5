"""Parameter groups of an optimizer: one for each parameter, and one for all that have the same hyper-parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def expand_param_groups(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A group for each parameter, in order; where it is in several, later hyper-parameters go over earlier ones."""
    hypers: dict[Any, dict[str, Any]] = {}
    for group in groups:
        own = {name: value for name, value in group.items() if name != "params"}
        for parameter in group["params"]:
            hypers.setdefault(parameter, {}).update(own)
    return [{"params": [parameter], **hyper} for parameter, hyper in hypers.items()]


def reduce_param_groups(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same parameters in as few groups as their hyper-parameters allow, in order."""
    members: dict[tuple, list] = {}
    for group in expand_param_groups(groups):
        (parameter,) = group.pop("params")
        members.setdefault(tuple(sorted(group.items())), []).append(parameter)
    return [{"params": parameters, **dict(hyper)} for hyper, parameters in members.items()]
