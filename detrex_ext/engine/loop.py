"""The loop of a training: iterations and hooks, with the state of all hooks and of the event storage kept.

What an iteration does is in `trainer.py`. With detectron2 installed, `TrainerBase` is a subclass of its own.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Sequence
from typing import Any

from detrex_ext.runtime import EventStorage, HookBase, host

_log = logging.getLogger(__name__)
_MOST_ITERATIONS = 10**9
SMOOTHING_WINDOW = 20
"""Iterations over which writers take medians, and so how much history a checkpoint keeps."""


class TrainerBase(host().TrainerBase):
    """A loop over iterations with hooks. Subclasses write `run_step`.

    Attributes:
        iter: the current iteration, from 0; `max_iter` after a training that ended well.
        start_iter, max_iter: the range of iterations of `train`.
        storage: the EventStorage of the running training.
        anchor: an iteration, and the progress of the training, 0 to 1, when it begins; moved where a plan changes.
    """

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self._saved_scalars: dict[str, dict[str, Any]] = {}
        self.iter: int = 0
        self.start_iter: int = 0
        self.max_iter: int = 0
        self.anchor: tuple[int, float] = (0, 0.0)
        self.storage: EventStorage | None = None

    def register_hooks(self, hooks: Sequence[HookBase | None]) -> None:
        """Add hooks in order; None is skipped. Hooks with `runs_last` (writers) stay behind all others."""
        for hook in hooks:
            if hook is not None:
                hook.trainer = weakref.proxy(self)
                self._hooks.append(hook)
        self._hooks.sort(key=lambda hook: getattr(hook, "runs_last", False))

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run iterations `start_iter .. max_iter - 1`. `after_train` hooks run however it ends.

        A hook may set another `max_iter` in `after_step`, before the hooks that look at it.
        """
        _log.info(f"Starting training from iteration {start_iter}")
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            self._restore_scalars()
            try:
                self.before_train()
                while self.iter < self.max_iter:
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    self.iter += 1
                # hooks tell by it that the training ended well
                self.iter = max(start_iter, self.max_iter)
            except Exception as error:  # told whole at the end of the program, which the log does not hold
                reason = (str(error).splitlines() or [""])[0]
                _log.error(f"training stopped by an error in iteration {self.iter}: {type(error).__name__}: {reason}")
                raise
            finally:
                self.after_train()

    def progress_at(self, iteration: int) -> float:
        """Share of the training that is done when an iteration begins, 0 to 1, by the length planned now.

        Where `max_iter` stands from the beginning this is `iteration / max_iter`.
        """
        done, share = self.anchor
        return min(share + (1 - share) * ((iteration - done) / max(self.max_iter - done, 1)), 1.0)

    def progress(self) -> float:
        """Share that is done after the iteration at which the storage stands, as `progress_at`."""
        return self.progress_at(min(self.storage.iter + 1, self.max_iter))

    def run_step(self) -> None:
        """One iteration: batch, losses, gradients, update. Subclasses write it."""
        raise NotImplementedError

    def before_train(self) -> None:
        """Run the hooks' `before_train` in order."""
        for hook in self._hooks:
            hook.before_train()

    def after_train(self) -> None:
        """Run the hooks' `after_train` in order, with the storage at the iteration where the training stopped."""
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.after_train()

    def before_step(self) -> None:
        """Set the storage to this iteration, then run the hooks' `before_step`."""
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.before_step()

    def after_backward(self) -> None:
        """Run the hooks' `after_backward`; `run_step` calls it before the update."""
        for hook in self._hooks:
            hook.after_backward()

    def after_step(self) -> None:
        """Run the hooks' `after_step` in order."""
        for hook in self._hooks:
            hook.after_step()

    def state_dict(self) -> dict[str, Any]:
        """Iteration, states of all hooks by class name (`Name`, `Name#2`, ...), and the recent scalars.

        With the scalars a resumed run writes the same smoothed figures as one that was never interrupted.
        """
        state: dict[str, Any] = {"iteration": self.iter, "scalars": self._recent_scalars()}
        hooks = {name: hook.state_dict() for name, hook in self._named_hooks()}
        hooks = {name: hook_state for name, hook_state in hooks.items() if hook_state}
        if hooks:
            state["hooks"] = hooks
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave; a state whose hook is not registered is ignored with a warning."""
        self.iter = state_dict["iteration"]
        if type(self.iter) is not int or not 0 <= self.iter < _MOST_ITERATIONS:
            raise ValueError(f"iteration {str(self.iter)[:60]!r}")
        self._saved_scalars = {
            str(name): {"hint": bool(s["hint"]), "values": [(float(value), int(it)) for value, it in s["values"]]}
            for name, s in state_dict.get("scalars", {}).items()
        }
        hooks = dict(self._named_hooks())
        for name, state in state_dict.get("hooks", {}).items():
            if hasattr(hooks.get(name), "load_state_dict"):
                hooks[name].load_state_dict(state)
            else:
                _log.warning(f"the checkpoint has the state of a hook '{name}', which is not in use: ignored")

    def _named_hooks(self) -> list[tuple[str, HookBase]]:
        counts: dict[str, int] = {}
        named = []
        for hook in self._hooks:
            name = type(hook).__qualname__
            counts[name] = counts.get(name, 0) + 1
            named.append((name if counts[name] == 1 else f"{name}#{counts[name]}", hook))
        return named

    def _recent_scalars(self) -> dict[str, dict[str, Any]]:
        if self.storage is None:
            return self._saved_scalars
        hints, recent = self.storage.smoothing_hints(), {}
        for name, history in self.storage.histories().items():
            values = history.values()
            first = values[-1][1] - SMOOTHING_WINDOW if hints[name] else values[-1][1] - 1
            kept = [(float(value), int(it)) for value, it in values[-SMOOTHING_WINDOW:] if it > first]
            recent[name] = {"hint": hints[name], "values": kept}
        return recent

    def _restore_scalars(self) -> None:
        for name, saved in self._saved_scalars.items():
            for value, iteration in saved["values"]:
                if iteration < self.start_iter:
                    self.storage.put_scalar(name, value, smoothing_hint=saved["hint"], cur_iter=iteration)
