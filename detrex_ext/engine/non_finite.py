"""A loss or a gradient that is not finite: found before the weights change, agreed on by all ranks, kept to be seen."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from detrex_ext.checkpoint import RunFolder
from detrex_ext.checkpoint.files import write_checkpoint
from detrex_ext.checkpoint.provenance import KEY, made_by
from detrex_ext.errors import UserError
from detrex_ext.runtime import Boxes, comm

from . import rng
from .batches import Batch

logger = logging.getLogger(__name__)
POLICIES = ("raise", "skip")
ADVICE = "try a lower optimizer.lr, train.clip_grad.enabled=true, or train.amp.enabled=false"


class NotFiniteError(FloatingPointError):
    """Raised on every rank by a step whose loss or gradient is not finite; no weight was changed.

    Args:
        message: what, in which iteration, and the batch.
        own: whether it is the loss of this rank's batch, or a gradient, which is that of all.
    """

    def __init__(self, message: str, own: bool = True) -> None:
        super().__init__(message)
        self.own = own


def agree(
    iteration: int, finite: Tensor, failure: str, losses: Mapping[str, Tensor], batch: Batch, stop_signal: int
) -> int:
    """All ranks go on, or all raise: one small reduction before the backward pass that needs all of them. Collective.

    Args:
        iteration: for the message.
        finite: 0-d bool, whether the losses of this rank are.
        failure: what the model says itself is not finite; "" = nothing.
        losses: by name, for the message.
        batch: of this rank.
        stop_signal: number of a signal that asked this process to stop, 0 = none.

    Returns:
        The number of a signal that some process was asked to stop by.

    Raises:
        NotFiniteError: on every rank, where a loss of any rank is not finite; it tells that of the first such rank.
    """
    flags = torch.stack([(~finite).long(), torch.tensor(stop_signal, device=finite.device)])
    if comm.get_world_size() > 1:
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    bad, stopping = flags.tolist()
    if not bad and not failure:
        return stopping
    names = [name for name, value in losses.items() if "/" not in name and not torch.isfinite(value)]
    reason = failure or (f"{', '.join(names)} not finite" if names else "")
    own = f"{reason}\n  batch: {', '.join(str(sample.get('file_name', '?')) for sample in batch)}" if reason else ""
    told = comm.all_gather(own)
    first = next((rank for rank, text in enumerate(told) if text), comm.get_rank())
    of = f"process {first}: " if len(told) > 1 else ""
    raise NotFiniteError(
        f"iteration {iteration}: {of}{told[first]}\n  the weights are as before this step; {ADVICE}", own=bool(own)
    )


class NonFinite:
    """What is done about it (``train.non_finite``).

    The last batch of that kind is written into the run folder with the weights and random states it met, so that
    ``--replay`` runs the step again.

    Args:
        policy: "raise" ends the training; "skip" leaves the weights as they are and goes on.
        limit: steps in a row that may be skipped.
        folder: of the run; "" = nothing is written.

    Attributes:
        extra: further values for the file (config text, class names).
        skipped: steps skipped by this process.
    """

    def __init__(self, policy: str = "raise", limit: int = 10, folder: str | os.PathLike = "") -> None:
        if policy not in POLICIES:
            raise UserError(f"train.non_finite.policy={policy}: expected one of {', '.join(POLICIES)}")
        self.policy, self.limit, self.folder = policy, limit, folder
        self.extra: Mapping[str, Any] = {}
        self.skipped = self._in_a_row = 0
        self._states: dict[str, Any] = {}
        self._statistics: list[tuple[Tensor, Tensor]] | None = None  # of norms, and as they were before the step

    def begin(self, model: nn.Module) -> None:
        """Called before each step.

        Args:
            model: not wrapped; a forward pass changes the statistics of its norms.
        """
        self._states = rng.get_state()
        if self._statistics is None:
            norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
            self._statistics = [(b, torch.empty_like(b)) for m in norms for b in m.buffers(recurse=False)]
        for now, kept in self._statistics:
            kept.copy_(now)

    def passed(self) -> None:
        """Called after each step that was finite."""
        self._in_a_row = 0

    def met(
        self, error: NotFiniteError, iteration: int, batch: Batch, model: nn.Module, progress: float = 0.0
    ) -> None:
        """Called on every rank after a step that was not.

        Args:
            error: what was found.
            iteration: in which.
            batch: of this rank.
            model: as it was before the step, not wrapped.
            progress: of the training then.

        Raises:
            FloatingPointError: unless the step is skipped.
        """
        for now, kept in self._statistics or ():
            now.copy_(kept)
        self._in_a_row += 1
        told = f"{error}{self._keep(error, iteration, batch, model, progress) if error.own and self.folder else ''}"
        if self.policy != "skip":
            raise FloatingPointError(told) from error
        if self._in_a_row > self.limit:
            raise FloatingPointError(
                f"{told}\n  {self._in_a_row} steps in a row were so; train.non_finite.limit={self.limit} are skipped"
            ) from error
        self.skipped += 1
        logger.warning("step skipped (%d in a row, %d in all): %s", self._in_a_row, self.skipped, told)

    def _keep(
        self, error: NotFiniteError, iteration: int, batch: Batch, model: nn.Module, progress: float
    ) -> str:
        """Writes the file; what the message says of it."""
        path = RunFolder(self.folder).non_finite(comm.get_rank())
        step = {
            "iteration": iteration,
            "progress": progress,
            "rank": comm.get_rank(),
            "processes": comm.get_world_size(),
            "reason": str(error).splitlines()[0],
            "batch": [_plain(sample) for sample in batch],
            "rng": self._states,
        }
        extra = {key: value for key, value in self.extra.items() if value != ""}  # the config is known to rank 0 alone
        try:
            write_checkpoint({"model": model.state_dict(), "step": step, KEY: made_by(), **extra}, path)
        except OSError as reason:  # a full disk hides no loss
            return f"\n  its batch could not be kept: {reason}"
        return f"\n  look at the step with: --replay {path}"


def _plain(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A sample as tensors, numbers and strings; what else it holds is left out."""
    objects = sample.get("instances")
    kept = {key: value for key, value in sample.items() if isinstance(value, Tensor | str | int | float)}
    if not hasattr(objects, "get_fields"):
        return kept
    boxes = [key for key, value in objects.get_fields().items() if isinstance(value, Boxes)]
    fields = {key: value.tensor if key in boxes else value for key, value in objects.get_fields().items()}
    fields = {key: value for key, value in fields.items() if isinstance(value, Tensor)}
    return {**kept, "image_size": tuple(objects.image_size), "fields": fields, "boxes": boxes}
