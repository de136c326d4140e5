"""SGD for most of a model and AdamW for a part of it, in one optimizer (TSP, arXiv 2011.10881, section 5.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from detrex_ext.runtime import get_default_optimizer_params

from .optim import parameters_named

KINDS = ("sgd", "adamw")


def two_optimizer_params(
    model: nn.Module,
    adamw: Sequence[str],
    base_lr: float,
    adamw_lr: float,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float | None = 1.0,
    weight_decay_bias: float | None = None,
    lr_factor_func: Callable[[str], float] | None = None,
    overrides: Mapping[str, Mapping[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """Parameter groups for :class:`SGDAndAdamW`: as ``get_default_optimizer_params`` makes them, for either optimizer.

    Args:
        model: given when the model is built.
        adamw: parts of the names of parameters that AdamW is for.
        base_lr: learning rate of the others.
        adamw_lr: learning rate of those. It stays what it is whatever ``base_lr`` becomes: Adam's steps do not grow
            with the gradient.
        weight_decay: weight decay; None = the optimizer's.
        weight_decay_norm: weight decay of the parameters of norm layers.
        bias_lr_factor: factor on the learning rate of biases.
        weight_decay_bias: weight decay of biases.
        lr_factor_func: factor on either learning rate by the parameter's full name.
        overrides: hyper-parameters by the last part of the parameter's name.

    Raises:
        UserError: a part that no parameter's name has.
    """
    chosen = set(parameters_named(model, adamw, "optimizer.params.adamw"))
    common = {
        "weight_decay": weight_decay,
        "weight_decay_norm": weight_decay_norm,
        "bias_lr_factor": bias_lr_factor,
        "weight_decay_bias": weight_decay_bias,
        "lr_factor_func": lr_factor_func,
    }
    groups = []
    for kind, lr in zip(KINDS, (base_lr, adamw_lr), strict=True):
        options = {key: dict(values) for key, values in (overrides or {}).items()}  # detectron2 writes into them
        for group in get_default_optimizer_params(model, base_lr=lr, overrides=options, **common):
            own = [p for p in group["params"] if (p in chosen) == (kind == "adamw")]
            groups += [{**group, "params": own, "optimizer": kind}] if own else []
    return groups


class SGDAndAdamW(torch.optim.Optimizer):
    """torch's SGD and torch's AdamW side by side, each with its own groups, as one optimizer.

    One schedule multiplies the rates of all groups, one state dict holds both states.

    Args:
        params: groups of :func:`two_optimizer_params`: each says by ``optimizer`` whose it is.
        lr: learning rate of groups that have none of their own.
        momentum: of SGD.
        weight_decay: of both.
        betas, eps: of AdamW.
        nesterov: of SGD.
        foreach, fused: of both, see torch.

    Raises:
        ValueError: groups that do not say whose they are.
    """

    def __init__(
        self,
        params: Sequence[Mapping[str, Any]],
        lr: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        nesterov: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
    ) -> None:
        groups = list(params)
        if not groups or not all(isinstance(g, Mapping) and g.get("optimizer") in KINDS for g in groups):
            raise ValueError(
                f"every group of parameters must say whose it is: 'optimizer' one of {', '.join(KINDS)}; in a config "
                "the groups are L(two_optimizer_params)(...)"
            )
        common = {"lr": lr, "weight_decay": weight_decay, "foreach": foreach, "fused": fused}
        made = {"sgd": (torch.optim.SGD, {"momentum": momentum, "nesterov": nesterov})}
        made["adamw"] = (torch.optim.AdamW, {"betas": tuple(betas), "eps": eps})
        self._parts: dict[str, torch.optim.Optimizer] = {}
        for kind, (cls, own) in made.items():
            if mine := [dict(g) for g in groups if g["optimizer"] == kind]:
                self._parts[kind] = cls(mine, **common, **own)
        everything = [g for part in self._parts.values() for g in part.param_groups]
        super().__init__(everything, {"lr": lr, "weight_decay": weight_decay})
        self._share()

    def _share(self) -> None:
        """Both parts work on this optimizer's groups and state."""
        for kind, part in self._parts.items():
            part.param_groups = [g for g in self.param_groups if g["optimizer"] == kind]
            part.state = self.state

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_parts": self._parts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See torch.

        Raises:
            ValueError: the state is of another optimizer, or has other parameters in either part.
        """
        both = (self.param_groups, state_dict["param_groups"])
        ours, theirs = ([group.get("optimizer") for group in groups] for groups in both)
        if ours != theirs:
            raise ValueError(f"groups of {theirs}, expected {ours}: another optimizer, or another choice of parameters")
        super().load_state_dict(state_dict)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of all parameters."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts.values():
            part.step()
        return loss
