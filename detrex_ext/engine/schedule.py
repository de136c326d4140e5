"""Schedules on fvcore's ``ParamScheduler``: functions of the progress of a training, 0 to 1."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from numbers import Real
from typing import Any

from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    CosineParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
)

from detrex_ext.config import build
from detrex_ext.errors import UserError
from detrex_ext.runtime import WarmupParamScheduler

logger = logging.getLogger(__name__)


def build_schedule(cfg: Any) -> ParamScheduler:
    """The schedule of ``cfg.lr_multiplier``.

    Raises:
        UserError: it gives no factor.
    """
    schedule = build(cfg.lr_multiplier, "lr_multiplier")
    factor = schedule(0.0) if callable(schedule) else None
    if not isinstance(factor, Real):
        found = type(schedule if factor is None else factor).__name__
        raise UserError(f"lr_multiplier: expected a schedule, a function from progress to a factor; found {found}")
    return schedule


def multistep_schedule(milestones: Sequence[int], end: int, gamma: float = 0.1) -> ParamScheduler:
    """Factor 1, multiplied by ``gamma`` at each milestone.

    Args:
        milestones: ascending, in the unit of ``end``.
        end: length of the training that the milestones are of.
        gamma: factor at each milestone.
    """
    values = [gamma**i for i in range(len(milestones) + 1)]
    return MultiStepParamScheduler(values, milestones=[*milestones, end])


def constant_then_cosine(constant: float = 0.7, end_factor: float = 0.01, tail: float = 0.0) -> ParamScheduler:
    """Factor 1 for the fraction ``constant`` of the training, then half a cosine down to ``end_factor``.

    Args:
        constant: fraction of the training with factor 1.
        end_factor: last factor.
        tail: fraction of the training, at its end, that stays at ``end_factor``.
    """
    if not 0 < constant < 1:
        raise UserError(f"constant_then_cosine: constant={constant}, expected a fraction between 0 and 1")
    if not 0 <= tail < 1 - constant:
        raise UserError(f"constant_then_cosine: tail={tail}, expected a fraction less than 1 - constant={constant}")
    parts = [ConstantParamScheduler(1.0), CosineParamScheduler(1.0, end_factor), ConstantParamScheduler(end_factor)]
    lengths, scaling = [constant, 1 - constant - tail, tail], ["fixed", "rescaled", "fixed"]
    count = 3 if tail else 2
    return CompositeParamScheduler(parts[:count], lengths=lengths[:count], interval_scaling=scaling[:count])


def warmed_up(
    scheduler: ParamScheduler, warmup_iters: int = 0, warmup_factor: float = 0.001, max_iter: int = 1
) -> ParamScheduler:
    """A schedule whose first iterations climb linearly to it.

    Args:
        scheduler: the schedule after the warm-up; it is cut, not shifted.
        warmup_iters: iterations of warm-up; 0 = none.
        warmup_factor: factor of the first iteration, relative to the schedule's start.
        max_iter: iterations of the training, that ``warmup_iters`` is a part of.
    """
    if warmup_iters <= 0:
        return scheduler
    if not callable(scheduler):
        raise UserError(f"lr_multiplier.scheduler: expected a schedule, found {type(scheduler).__name__}")
    if warmup_iters >= max_iter:
        logger.warning("lr_multiplier.warmup_iters=%d: all %d iterations are warm-up", warmup_iters, max_iter)
    return WarmupParamScheduler(scheduler, warmup_factor, min(1.0, warmup_iters / max_iter))
