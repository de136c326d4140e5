"""Autocast and loss scaling as the config asks, on the CPU and on GPUs."""

from __future__ import annotations

import torch

from detrex_ext.errors import UserError

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """Mixed precision of a training.

    Args:
        device: "cpu", "cuda", ...
        enabled: False computes in the type of the weights.
        dtype: "bf16", or "fp16", whose losses are scaled.

    Attributes:
        scaler: a ``GradScaler``; it does nothing unless fp16 is in use.
    """

    def __init__(self, device: str, enabled: bool = False, dtype: str = "bf16") -> None:
        if dtype not in _DTYPES:
            raise UserError(f"train.amp.dtype={dtype}: expected one of {', '.join(_DTYPES)}")
        self.device_type, self.enabled, self.dtype = torch.device(device).type, enabled, _DTYPES[dtype]
        self.scaler = torch.amp.GradScaler(self.device_type, enabled=enabled and dtype == "fp16")

    def autocast(self) -> torch.autocast:
        """The context to run a forward pass in."""
        return torch.autocast(self.device_type, dtype=self.dtype, enabled=self.enabled)
