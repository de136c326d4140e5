"""The trainer: one optimizer step per iteration, whatever the precision, number of processes and micro-batches."""

from __future__ import annotations

import contextlib
import logging
import time
import weakref
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .batches import Batch, out_of_memory, split, told, totals
from .events import is_early
from .loop import TrainerBase
from .metrics import MetricBuffer
from .non_finite import NonFinite, NotFiniteError, agree
from .optim import load_optimizer_state
from .precision import Precision
from .rng import RngState
from .sharding import unsynced

logger = logging.getLogger(__name__)
_TIMES = ("time", "data_time", "eta_seconds")


class Trainer(TrainerBase):
    """Trains ``model(batch) -> dict of losses``.

    Args:
        model: the model, wrapped for several processes or not; put into training mode.
        loader: yields this rank's whole batch per iteration; ``set_start(iteration)`` where it can begin in between.
        optimizer: over the model's parameters.
        precision: autocast and loss scaling.
        accumulate_steps: micro-batches a batch is run in. Losses are those of the whole batch where their
            normalizers depend on objects or images only (see ``detrex_ext.criterion.normalizers``).
        clip_grad: arguments of ``clip_grad_norm_``, ``parameters`` where they are not all; or None.
        log_period: iterations between transfers of losses from the device.
        non_finite: what is done about a loss that is not finite; default: an error.

    Attributes:
        stop_signal: number of a signal that asked this process to stop, 0 = none.
        stopping: signal that some process was asked to stop by, agreed on by all ranks.
        rng: random states, saved with a checkpoint.
    """

    def __init__(
        self,
        model: nn.Module,
        loader: Any,
        optimizer: torch.optim.Optimizer,
        *,
        precision: Precision | None = None,
        accumulate_steps: int = 1,
        clip_grad: Mapping[str, Any] | None = None,
        log_period: int = 20,
        non_finite: NonFinite | None = None,
    ) -> None:
        super().__init__()
        model.train()
        self.model, self.loader, self.optimizer = model, loader, optimizer
        self.device = next(model.parameters()).device
        self.precision = precision or Precision(self.device.type)
        self.accumulate_steps, self.clip_grad, self.log_period = accumulate_steps, clip_grad, log_period
        self.metrics, self.rng = MetricBuffer(self.precision.scaler.is_enabled()), RngState()
        self.stop_signal = self.stopping = 0
        self._inner = model.module if isinstance(model, DistributedDataParallel) else model
        self._takes_effective = bool(told(self._inner, effective=None))
        self.non_finite = non_finite or NonFinite()
        self._batches: Iterator[Batch] | None = None
        self._saved_max_iter: int | None = None

    def before_train(self) -> None:
        """Open the loader at the first iteration, restore the generators, then run the hooks."""
        if hasattr(self.loader, "set_start"):
            self.loader.set_start(self.start_iter)
        if hasattr(self.loader, "set_progress"):  # no reference to this trainer, or workers would end late
            self.loader.set_progress(partial(type(self).progress_at, weakref.proxy(self)))
        self._batches = iter(self.loader)
        if self._saved_max_iter not in (None, self.max_iter):
            text = f"resume: train.max_iter {self._saved_max_iter} -> {self.max_iter}"
            logger.warning("%s: the schedule goes over the new length", text, extra={"only": "file"})
        self.rng.restore()
        super().before_train()

    def run_step(self) -> None:
        """One update of the weights; a FloatingPointError where a loss or the gradient norm is not finite."""
        start = time.perf_counter()
        batch = next(self._batches)
        data_time = time.perf_counter() - start
        self.optimizer.zero_grad(set_to_none=True)
        self.non_finite.begin(self._inner)
        try:
            scalars = self._gradients(batch)
        except torch.cuda.OutOfMemoryError as error:
            raise out_of_memory(batch, self.iter, self.accumulate_steps) from error
        except NotFiniteError as error:
            self.non_finite.met(error, self.iter, batch, self._inner, self.progress_at(self.iter))
        else:
            self.non_finite.passed()
            self.precision.scaler.step(self.optimizer)
            self.precision.scaler.update()
            self.metrics.add(self.iter, scalars, data_time)
        done = self.iter + 1
        if done % self.log_period == 0 or done == self.max_iter or is_early(done):
            self.metrics.flush(self.storage)
            if self.precision.scaler.is_enabled():
                self.storage.put_scalar("[metric]grad_scaler", self.precision.scaler.get_scale())

    def _gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Leaves the gradients of the whole batch, clipped; returns losses, statistics and the norm."""
        scalars = self._forward_backward(batch)
        self.after_backward()
        if self.clip_grad is not None:
            scalars["grad_norm"] = self._clip()
        return scalars

    def _forward_backward(self, batch: Batch) -> dict[str, Tensor]:
        """Gradients of the whole batch; returns its losses and statistics, summed over micro-batches."""
        parts = split(batch, self.accumulate_steps)
        effective = totals(batch, self.device) if len(parts) > 1 else None
        finite, failure = torch.ones((), dtype=torch.bool, device=self.device), ""
        sums: dict[str, Tensor] = {}
        for part in parts:
            last = part is parts[-1]
            with contextlib.nullcontext() if last else unsynced(self.model):
                try:
                    losses, stats = self._forward(part, effective, len(parts))
                except FloatingPointError as error:
                    failure = str(error)
                    break
                total = sum(losses.values())
                finite &= torch.isfinite(total.detach())
                for name, value in {"total_loss": total, **losses, **stats}.items():
                    sums[name] = sums[name] + value.detach() if name in sums else value.detach()
                if last:
                    self.stopping = agree(self.iter, finite, failure, sums, batch, self.stop_signal)
                self.precision.scaler.scale(total).backward()
        if failure:
            self.stopping = agree(self.iter, ~finite & finite, failure, sums, batch, self.stop_signal)
        return sums

    def _forward(self, part: Batch, effective: tuple[float, float] | None, parts: int):
        with self.precision.autocast():
            out = self.model(part, **told(self._inner, effective=effective, progress=self.progress_at(self.iter)))
        losses = dict(out) if isinstance(out, Mapping) else {"loss": out}
        if not self._takes_effective and parts > 1:  # a model that knows no totals: the mean of the micro-batches
            losses = {name: value / parts for name, value in losses.items()}
        return losses, getattr(out, "stats", {})

    def _clip(self) -> Tensor:
        """Clips gradients; their norm before it."""
        self.precision.scaler.unscale_(self.optimizer)
        args = {"parameters": [p for group in self.optimizer.param_groups for p in group["params"]], **self.clip_grad}
        norm = nn.utils.clip_grad_norm_(**{**args, "parameters": [p for p in args["parameters"] if p.grad is not None]})
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        # free on the CPU; on a GPU a norm is looked at when it is logged, and always before a checkpoint
        if norm.device.type == "cpu" and not self.precision.scaler.is_enabled() and not torch.isfinite(norm):
            raise NotFiniteError(f"iteration {self.iter}: the gradient norm is {norm.item()}")
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Iteration, hooks, recent scalars, optimizer, loss scaler. Collective: every rank calls it."""
        self.metrics.flush(self.storage)
        state = super().state_dict()
        # times of this process say nothing about the one that resumes; left in, they would get lines of their own
        for name in _TIMES:
            state["scalars"].pop(name, None)
        state["optimizer"] = self.optimizer.state_dict()
        state["max_iter"] = self.max_iter
        if self.precision.scaler.is_enabled():
            state["grad_scaler"] = self.precision.scaler.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` gave; where ``max_iter`` differs, that of this run holds."""
        super().load_state_dict(state)
        self._saved_max_iter = state.get("max_iter")
        load_optimizer_state(self.optimizer, state["optimizer"])
        if self.precision.scaler.is_enabled() and "grad_scaler" in state:
            self.precision.scaler.load_state_dict(state["grad_scaler"])
