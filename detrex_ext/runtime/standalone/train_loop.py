"""Base classes of hooks and trainers; what a trainer does is in `detrex_ext.engine.loop`."""

from __future__ import annotations

from typing import Any


class HookBase:
    """Code that runs at fixed places of a training.

    `hook.trainer` is a weak reference to the trainer, set when the hook is registered.
    """

    trainer: TrainerBase

    def before_train(self) -> None:
        """Before the first iteration."""

    def after_train(self) -> None:
        """After the last iteration, also when the training ended by an exception."""

    def before_step(self) -> None:
        """Before each iteration."""

    def after_backward(self) -> None:
        """After the backward pass of each iteration."""

    def after_step(self) -> None:
        """After each iteration."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint should keep; empty for a hook without state."""
        return {}


class TrainerBase:
    """Common ancestor of trainers."""
