"""Two helpers that detectron2's test files expect: a thing after it was written and read back."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import torch

from detrex_ext.runtime import LazyConfig


def lazy_config(cfg: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "config.yaml"))
        LazyConfig.save(cfg, path)
        return LazyConfig.load(path)


def script_model(module: Any) -> Any:
    held = io.BytesIO()
    torch.jit.save(module, held)
    return torch.jit.load(io.BytesIO(held.getvalue()))
