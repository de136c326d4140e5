"""Exponential moving average of a model's weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from detrex_ext.runtime import HookBase
from detrex_ext.runtime.devices import usable_device
from detrex_ext.structures.placing import moved


class ModelEMA:
    """Average of parameters and floating-point buffers; other buffers are copied.

    The state dict is flat, names as the model's: a file's ``ema_state`` loads like its ``model``.

    Args:
        model: the model, not wrapped.
        decay: weight of the past in an update.
        warmup: the decay of update t is ``min(decay, (1 + t) / (10 + t))``, so that the random start is soon forgotten.
        device: where the average is kept; "" = beside the model.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999, warmup: bool = False, device: str = "") -> None:
        self.model, self.decay, self.warmup, self.updates = model, decay, warmup, 0
        if device:
            usable_device(device, "train.model_ema.device")
        self._state = {k: v.detach().clone().to(device or v.device) for k, v in model.state_dict().items()}

    def restart(self) -> None:
        """The average is the model's weights of now."""
        self.load_state_dict(self.model.state_dict())
        self.updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the model's weights of now."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay
        self.updates += 1
        averages: list[Tensor] = []
        weights: list[Tensor] = []
        for name, value in self.model.state_dict().items():
            average = self._state[name]
            if average.is_floating_point():
                averages.append(average)
                weights.append(moved(value, average.device))
            else:
                average.copy_(value)
        if averages:
            torch._foreach_lerp_(averages, weights, 1.0 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds the average inside, its own weights afterwards, also after an error."""
        own = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        try:
            _copy(self._state, self.model)
            yield
        finally:
            _copy(own, self.model)

    def state_dict(self) -> dict[str, Tensor]:
        """The average by the model's names; the tensors themselves, not copies."""
        return dict(self._state)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Copy an average in; a missing name is a KeyError, a further one is ignored.

        Raises:
            ValueError: a tensor of another shape, or none.
        """
        for name, average in self._state.items():
            shape = getattr(state[name], "shape", None)
            if shape != average.shape:
                raise ValueError(f"{name} is of shape {shape}, expected {tuple(average.shape)}")
        for name, average in self._state.items():
            average.copy_(state[name])


@torch.no_grad()
def _copy(state: dict[str, Tensor], model: nn.Module) -> None:
    for name, value in model.state_dict().items():
        value.copy_(state[name])


class EMAHook(HookBase):
    """Updates an average after each step and keeps its count of updates in checkpoints."""

    def __init__(self, ema: ModelEMA) -> None:
        self.ema = ema

    def after_step(self) -> None:
        """Take the weights of this step into the average."""
        self.ema.update()

    def state_dict(self) -> dict[str, Any]:
        """The count of updates; the average itself is the checkpoint's ``ema_state``."""
        return {"updates": self.ema.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set the count of updates, on which the warm-up depends."""
        self.ema.updates = int(state["updates"])
