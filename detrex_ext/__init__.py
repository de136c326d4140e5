"""Training strategies for DETR-family detectors, laid over any host by one config overlay.

Importing this package is cheap: torch and detectron2 are imported on first use of a name that needs them.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "load": "detrex_ext.api",
    "Predictor": "detrex_ext.predictor",
    "get_config": "detrex_ext.config",
    "UserError": "detrex_ext.errors",
}
__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'detrex_ext' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
