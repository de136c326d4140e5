"""Autocast and loss scaling as the config asks and the machine can, on the CPU and on GPUs."""

from __future__ import annotations

import logging
from typing import Literal

import torch

from detrex_ext.errors import UserError
from detrex_ext.runtime import comm, native

logger = logging.getLogger(__name__)


class Precision:
    """Mixed precision of a training.

    Args:
        device: "cpu", "cuda", ...
        enabled: False computes in the type of the weights; "auto" does where the device has no instructions for
            ``dtype``, on any process of the job (collective).
        dtype: "bf16", or "fp16", whose losses are scaled.

    Attributes:
        scaler: a ``GradScaler``; it does nothing unless fp16 is in use.
        name: "bf16", "fp16" or "fp32".
        reason: why it is that, for people.
    """

    def __init__(
        self, device: str | torch.device, enabled: bool | Literal["auto"] = False, dtype: str = "bf16"
    ) -> None:
        if dtype not in native.DTYPES:
            raise UserError(f"train.amp.dtype={dtype}: expected one of {', '.join(native.DTYPES)}")
        self.device, self.dtype = torch.device(device), native.DTYPES[dtype]
        if enabled == "auto":
            can, self.reason = native.half(self.device, dtype)
            found = comm.all_gather((can, self.reason))
            enabled, self.reason = next((other for other in found if not other[0]), found[0])
        else:
            self.reason = f"train.amp.enabled={str(enabled).lower()}"
        self.enabled, self.name = enabled, dtype if enabled else "fp32"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=enabled and dtype == "fp16")

    def autocast(self) -> torch.autocast:
        """The context to run a forward pass in."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.enabled)

    def log(self) -> None:
        """Say which precision is in use and why; warn, with what was measured, where it is a slow one."""
        logger.info("precision: %s (%s)", self.name, self.reason)
        if not self.enabled:
            return
        can, reason = native.half(self.device, self.name)
        if not can:
            measured = native.ratio(self.name) if self.device.type == "cpu" else None
            slow = "" if measured is None else f"; a product takes {measured:.1f} times as long as in fp32 (measured)"
            forced = f"{self.name} is forced by train.amp.enabled=true, but {reason}{slow}"
            logger.warning("%s\n  use train.amp.enabled=auto", forced)
