"""Optimizers from a config."""

from __future__ import annotations

import copy
import difflib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig
from torch import nn

from detrex_ext.checkpoint.shards import part_like
from detrex_ext.config import build
from detrex_ext.errors import UserError
from detrex_ext.runtime import LazyCall as L

logger = logging.getLogger(__name__)


class LrFactor:
    """Factor on the learning rate by parameter name; in a config ``L(LrFactor)(factors={"backbone": 0.1})``.

    An object and not a lambda, so that a config that holds it can be written to YAML and read again.

    Args:
        factors: part of a name -> factor; the first that is in the name counts.
        default: factor of every other parameter.
    """

    def __init__(self, factors: Mapping[str, float], default: float = 1.0) -> None:
        self.factors, self.default = dict(factors), default

    def __call__(self, name: str) -> float:
        """The factor of the parameter of that full name."""
        return next((factor for part, factor in self.factors.items() if part in name), self.default)


def slow_down(cfg: Any, part: str, factor: float) -> None:
    """Gives parameters of that part of a name a factor on the learning rate, unless the config has a rule for them.

    Args:
        cfg: a config; ``optimizer.params`` is changed.
        part: of the names, such as ``backbone``.
        factor: on the learning rate.
    """
    params = cfg.optimizer.params
    if params.get("lr_factor_func") is None:
        params.lr_factor_func = L(LrFactor)(factors={part: factor})
        if params.get("base_lr") is None:
            params.base_lr = "${optimizer.lr}"
    elif part not in params.lr_factor_func.get("factors", {part: ...}):
        params.lr_factor_func.factors[part] = factor


def build_optimizer(cfg: Any, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of ``cfg.optimizer`` over a model; the config is left as it was.

    Under ``train.scale_lr`` every learning rate is that of the config times :func:`lr_scale`.
    """
    node = copy.deepcopy(cfg.optimizer)  # detectron2 writes into the overrides that it is given
    node.params.model = model
    optimizer = build(node, "optimizer", torch.optim.Optimizer)
    if _fuses(optimizer, node):
        node.fused = True
        optimizer = build(node, "optimizer", torch.optim.Optimizer)
    for values in (optimizer.defaults, *optimizer.param_groups):
        # a list of the config that an optimizer keeps as it came would be in every checkpoint, as torch 2.4's Adam does
        values.update({key: tuple(value) for key, value in values.items() if isinstance(value, ListConfig)})
    _check_overrides(node.params, optimizer, [name for name, _ in model.named_parameters()])
    scale = lr_scale(cfg)
    for group in optimizer.param_groups if scale != 1 else ():
        group["lr"] *= scale
    return optimizer


def lr_scale(cfg: Any) -> float:
    """What learning rates are multiplied by: 1, or under ``train.scale_lr`` the batch over that they were chosen for.

    Linear scaling (Goyal et al., "Accurate, Large Minibatch SGD", 2017, section 2.1).
    """
    train = cfg.get("train") or {}
    return cfg.dataloader.train.total_batch_size / train["reference_batch"] if train.get("scale_lr") else 1.0


def _fuses(optimizer: torch.optim.Optimizer, node: DictConfig) -> bool:
    """Whether all parameters of an AdamW lie on a GPU, where one kernel updates them, and the config leaves it open."""
    if type(optimizer) is not torch.optim.AdamW or any(node.get(key) is not None for key in ("fused", "foreach")):
        return False
    return {p.device.type for group in optimizer.param_groups for p in group["params"]} == {"cuda"}


def _check_overrides(params: DictConfig, optimizer: torch.optim.Optimizer, names: list[str]) -> None:
    """Refuses options that the optimizer does not have, and tells of patterns that no parameter's name fits."""
    overrides = params.get("overrides") or {}
    for part, options in overrides.items():
        for option in options:
            if option not in optimizer.defaults:
                near = difflib.get_close_matches(str(option), optimizer.defaults, 1, 0.6)
                hint = f"did you mean {near[0]}?" if near else f"it has: {', '.join(optimizer.defaults)}"
                key, name = f"optimizer.params.overrides.{part}.{option}", type(optimizer).__name__
                raise UserError(f"{key}: {name} has no option '{option}'\n  {hint}")
    by_factor = params.get("lr_factor_func")
    factors = (by_factor.get("factors") or {}) if isinstance(by_factor, DictConfig) else {}
    unused = [f"overrides.{part}" for part in overrides if part not in {name.rpartition(".")[2] for name in names}]
    unused += [f"lr_factor_func.factors.{part}" for part in factors if not any(str(part) in name for name in names)]
    if unused:
        logger.warning("optimizer.params.%s: no parameter has such a name", ", ".join(unused))


def parameters_named(model: nn.Module, parts: Sequence[str], key: str) -> list[nn.Parameter]:
    """The parameters that have one of the parts in their names.

    Args:
        model: not wrapped.
        parts: of names, such as ``encoder.encoder``.
        key: of the config, for the message.

    Raises:
        UserError: a part that is in no name.
    """
    named = dict(model.named_parameters())
    for part in parts:
        if not part or not any(part in name for name in named):
            parents = {name.rsplit(".", n)[0] for name in named for n in range(name.count(".") + 1)}
            near = difflib.get_close_matches(str(part), sorted(parents), 1, 0.6)
            hint = f"did you mean {near[0]}?" if near else f"its parts are {', '.join(dict(model.named_children()))}"
            raise UserError(f"{key}: no parameter has '{part}' in its name\n  {hint}")
    return [p for name, p in named.items() if any(part in name for part in parts)]


def clipping(clip: Mapping[str, Any], model: nn.Module | None = None) -> dict[str, Any] | None:
    """Arguments of ``clip_grad_norm_`` from ``train.clip_grad``, with ``parameters`` where not all are clipped.

    None where nothing is to be clipped, which ``max_norm=0`` asks for too, as in the official DETR.

    Raises:
        UserError: a part of ``only`` that no parameter's name has.
    """
    only = clip.get("only") or ()
    named = parameters_named(model, only, "train.clip_grad.only") if only else []
    if clip["enabled"] and clip["params"]["max_norm"] == 0:
        logger.info("train.clip_grad.params.max_norm=0: gradients are not clipped")
        return None
    return {**clip["params"], **({"parameters": named} if named else {})} if clip["enabled"] else None


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Restores moments; learning rates, weight decays and the like stay those of the config now in use.

    What differs from the values in the file is logged, so that nobody wonders which of the two counts.

    Raises:
        ValueError: a state of other parameters.
    """
    ours = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    saved = [{k: v for k, v in group.items() if k != "params"} for group in state["param_groups"]]
    sizes = [[len(group["params"]) for group in one] for one in (state["param_groups"], optimizer.param_groups)]
    if sizes[0] != sizes[1]:
        then, own = (", ".join(map(str, size)) or "none" for size in sizes)
        raise ValueError(
            f"its optimizer has groups of {then} parameters, this one of {own}; optimizer.params as they were fit it"
        )
    # counts of steps go to where the kernel now in use wants them
    groups = [{**then, "fused": now["fused"]} if "fused" in now else then for now, then in
              zip(ours, state["param_groups"], strict=True)]  # fmt: skip
    optimizer.load_state_dict({**state, "param_groups": groups})
    for parameter, values in optimizer.state.items():
        values.update({key: part_like(value, parameter) for key, value in values.items()})
        moments = (values.get(name) for name in ("exp_avg", "exp_avg_sq", "momentum_buffer"))
        shapes = {tuple(moment.shape) for moment in moments if moment is not None}
        if shapes - {tuple(parameter.shape)}:
            raise ValueError(f"moments of shape {shapes.pop()} for a parameter of {tuple(parameter.shape)}")
    for number, (group, now, then) in enumerate(zip(optimizer.param_groups, ours, saved, strict=True)):
        base = {**then, "lr": then.get("initial_lr", then["lr"])}
        changed = [f"{k} {base[k]} -> {v}" for k, v in now.items() if k in base and _differ(base[k], v)]
        if changed:
            text = f"resume: group {number} of the optimizer changes by the config: {', '.join(changed)}"
            logger.warning(text, extra={"only": "file"})  # where there is a config, its differences were told
        group.update(now, initial_lr=now["lr"])


def _differ(a: Any, b: Any) -> bool:
    return (list(a) != list(b)) if isinstance(a, list | tuple) else a != b
