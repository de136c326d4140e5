"""Activation checkpointing by part: layers that the backward pass computes again instead of keeping what is inside."""

from __future__ import annotations

import logging

from torch import nn

from detrex_ext.errors import UserError
from detrex_ext.modeling.backbones.blocks import EvalBatchNorm2d

logger = logging.getLogger(__name__)

PARTS = ("backbone", "encoder", "decoder")


def recompute_parts(model: nn.Module, what: str | None) -> None:
    """Turns on activation checkpointing in parts of a model, in place. Dropout draws the same numbers again.

    Args:
        model: a detector.
        what: one of :data:`PARTS`, "all" for those of them that can, or None for nothing.

    Raises:
        UserError: an unknown name, or a part whose layers cannot be computed twice.
    """
    if what is None:
        return
    if what not in (*PARTS, "all"):
        raise UserError(f"train.activation_checkpointing={what}: expected one of {', '.join(PARTS)}, all, or null")
    names = PARTS if what == "all" else (what,)
    reasons = {name: _why_not(getattr(model, name, None), name) for name in names}
    able = [name for name in names if not reasons[name]]
    if not able or what != "all" and reasons[what]:
        told = "; ".join(reasons.values())
        raise UserError(f"train.activation_checkpointing={what}: {told}\n  use train.activation_checkpointing=null")
    for name in able:
        for module in _switches(getattr(model, name)):
            module.checkpoint = True
    left = "".join(f"; not {name}: {reason}" for name, reason in reasons.items() if reason)
    logger.info("computed again in the backward pass, for less memory: %s%s", ", ".join(able), left)


def _switches(part: nn.Module) -> list[nn.Module]:
    return [module for module in part.modules() if isinstance(getattr(module, "checkpoint", None), bool)]


def _why_not(part: nn.Module | None, name: str) -> str:
    """Why a part cannot, "" where it can."""
    if not isinstance(part, nn.Module):
        return f"the model has no part '{name}'"
    kind = type(part).__name__
    if not _switches(part):
        return f"{kind} has no layers to compute again"
    norms = (m for m in part.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training)
    if any(m.track_running_stats and not isinstance(m, EvalBatchNorm2d) for m in norms):
        return f"the statistics of {kind}'s trained batch norm would be updated twice (FrozenBN or EvalBN have none)"
    return ""
