"""Parameter groups and learning-rate schedules, with detectron2's names, on fvcore's `ParamScheduler`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    LinearParamScheduler,
    ParamScheduler,
)
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from detrex_ext.runtime.standalone.groups import reduce_param_groups

# fvcore's step schedules look 1e-6 ahead of the progress they are asked for and fail at 1.
_LAST_PROGRESS = 1 - 2e-6
_NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm)


def clamp_warmup(length: float) -> float:
    """A warm-up longer than the training, as in a short trial of a long recipe, is all of the training."""
    return min(max(float(length), 0.0), _LAST_PROGRESS)


class WarmupParamScheduler(CompositeParamScheduler):
    """A schedule that starts lower and climbs to its own value."""

    def __init__(
        self,
        scheduler: ParamScheduler,
        warmup_factor: float,
        warmup_length: float,
        warmup_method: str = "linear",
        rescale_interval: bool = False,
    ) -> None:
        """The warm-up replaces the beginning of `scheduler`, or with `rescale_interval` goes before it.

        Args:
            scheduler: value over progress 0..1 of the training.
            warmup_factor: the first value is `warmup_factor * scheduler(0)`.
            warmup_length: fraction of the training that is warm-up; more than 1 means all of it.
            warmup_method: "linear" or "constant".
            rescale_interval: the schedule starts at its own beginning after the warm-up instead of being cut.
        """
        length = clamp_warmup(warmup_length)
        start = warmup_factor * scheduler(0.0)
        end = scheduler(0.0 if rescale_interval else length)
        if warmup_method == "linear":
            warmup: ParamScheduler = LinearParamScheduler(start, end)
        elif warmup_method == "constant":
            warmup = ConstantParamScheduler(start)
        else:
            raise ValueError(f"warmup_method is '{warmup_method}'; it must be 'linear' or 'constant'")
        super().__init__(
            [warmup, scheduler],
            interval_scaling=["rescaled", "rescaled" if rescale_interval else "fixed"],
            lengths=[length, 1 - length],
        )


class ClampedLR:
    """`get_lr` of a multiplier schedule, defined at and beyond the end of the training too."""

    def get_lr(self) -> list[float]:
        """Rate of each group at `last_epoch` iterations."""
        progress = min(max(self.last_epoch, 0) / max(self._max_iter, 1), _LAST_PROGRESS)
        multiplier = self._multiplier(progress)
        return [base * multiplier for base in self.base_lrs]


class LRMultiplier(ClampedLR, torch.optim.lr_scheduler.LRScheduler):
    """Learning rate of each group = its base value times `multiplier(iteration / max_iter)`."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, multiplier: ParamScheduler, max_iter: int, last_iter: int = -1
    ) -> None:
        """The rates of iteration `last_iter + 1` are set at once.

        Args:
            optimizer: its groups must hold `initial_lr` where `last_iter` is 0 or more.
            multiplier: an fvcore schedule; its values multiply the base learning rates.
            max_iter: length of the training in iterations.
            last_iter: the last iteration that was done; -1 for a training from the start.
        """
        if not isinstance(multiplier, ParamScheduler):
            raise ValueError(f"multiplier must be an fvcore ParamScheduler, found {type(multiplier).__name__}")
        self._multiplier = multiplier
        self._max_iter = max_iter
        super().__init__(optimizer, last_epoch=last_iter)

    def state_dict(self) -> dict[str, Any]:
        """Position and base values only: the schedule is the config's."""
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}


def get_default_optimizer_params(
    model: nn.Module,
    base_lr: float | None = None,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float | None = 1.0,
    weight_decay_bias: float | None = None,
    lr_factor_func: Callable[[str], float] | None = None,
    overrides: dict[str, dict[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """Parameter groups of the trainable parameters, each once; equal hyper-parameters share a group.

    Args:
        model: its frozen parameters are left out; in a config it is given when the model is built.
        base_lr: learning rate; None = the optimizer's.
        weight_decay: weight decay; None = the optimizer's.
        weight_decay_norm: weight decay of the parameters of norm layers.
        bias_lr_factor: factor on the learning rate of biases; other than 1 needs `base_lr`.
        weight_decay_bias: weight decay of biases.
        lr_factor_func: factor on `base_lr` by the parameter's full name, for example `layers.0.weight`.
        overrides: hyper-parameters by the last part of the parameter's name.

    Raises:
        ValueError: a factor without `base_lr`, or an override given twice.
    """
    by_last_name = {k: dict(v) for k, v in (overrides or {}).items()}
    bias = _of_biases(base_lr, bias_lr_factor, weight_decay_bias)
    if bias and "bias" in by_last_name:
        raise ValueError("overrides for 'bias' beside bias_lr_factor or weight_decay_bias: give one of them")
    by_last_name |= {"bias": bias} if bias else {}
    if lr_factor_func is not None and base_lr is None:
        raise ValueError("lr_factor_func needs base_lr")
    defaults = {k: v for k, v in (("lr", base_lr), ("weight_decay", weight_decay)) if v is not None}
    groups: list[dict[str, Any]] = []
    seen: set[nn.Parameter] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            hyper = dict(defaults)
            if isinstance(module, _NORMS) and weight_decay_norm is not None:
                hyper["weight_decay"] = weight_decay_norm
            if lr_factor_func is not None:
                hyper["lr"] = base_lr * lr_factor_func(f"{module_name}.{name}" if module_name else name)
            hyper.update(by_last_name.get(name, {}))
            groups.append({"params": [parameter], **hyper})
    return reduce_param_groups(groups)


def _of_biases(base_lr: float | None, factor: float | None, weight_decay: float | None) -> dict[str, float]:
    """Hyper-parameters that biases have of their own."""
    bias: dict[str, float] = {}
    if factor is not None and not math.isclose(factor, 1.0):
        if base_lr is None:
            raise ValueError("bias_lr_factor needs base_lr")
        bias["lr"] = base_lr * factor
    if weight_decay is not None:
        bias["weight_decay"] = weight_decay
    return bias
