"""Losses on their way from the device to the event storage: kept on the device, moved once per log period."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from detrex_ext.runtime import EventStorage, comm

_Step = tuple[int, list[str], Tensor, float]


class MetricBuffer:
    """Collects the scalars of every step and puts them into the storage, averaged over ranks, when flushed.

    One device-to-host copy and one gather per flush, however many steps and losses it holds.

    Args:
        skipping: a step whose gradient is not finite changes no weight, as a loss scaler has it, and is no error.
    """

    def __init__(self, skipping: bool = False) -> None:
        self._steps: list[_Step] = []
        self._skipping = skipping

    def add(self, iteration: int, scalars: Mapping[str, Tensor], data_time: float) -> None:
        """Keeps the scalars of a step, detached, where they are.

        Args:
            iteration: the step they belong to.
            scalars: 0-d tensors of one device by name.
            data_time: seconds this rank waited for data.
        """
        values = torch.stack([v.detach().float().reshape(()) for v in scalars.values()])
        self._steps.append((iteration, list(scalars), values, data_time))

    def flush(self, storage: EventStorage) -> None:
        """Moves everything into the storage of rank 0. Collective: every rank calls it at the same step.

        Raises:
            FloatingPointError: on all ranks, where a gradient norm was not finite and the weights are spoilt by it.
        """
        if not self._steps:
            return
        steps, self._steps = self._steps, []
        sizes = [len(names) for _, names, _, _ in steps]
        values = torch.cat([v for _, _, v, _ in steps]).cpu().split(sizes)
        rows = [
            (it, dict(zip(names, v.tolist(), strict=True)), seconds)
            for (it, names, _, seconds), v in zip(steps, values, strict=True)
        ]
        for per_rank in zip(*comm.gather(rows), strict=True):
            self._put(storage, per_rank)
        for iteration, scalars, _ in rows:
            if not self._skipping and not math.isfinite(scalars.get("grad_norm", 0.0)):
                raise FloatingPointError(f"the gradient norm of iteration {iteration} is {scalars['grad_norm']}")

    @staticmethod
    def _put(storage: EventStorage, per_rank: tuple) -> None:
        iteration, names = per_rank[0][0], dict.fromkeys(name for _, row, _ in per_rank for name in row)
        for name in names:
            found = [row[name] for _, row, _ in per_rank if name in row]
            storage.put_scalar(name, sum(found) / len(found), cur_iter=iteration)
        storage.put_scalar("data_time", max(seconds for _, _, seconds in per_rank), cur_iter=iteration)
