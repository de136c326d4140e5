"""The seam: everything this project takes from detectron2, with or without detectron2.

Types and global state that other detectron2 code shares with us (structures, catalogs, event storage, `comm`,
`HookBase`, `LazyCall`) come from detectron2 where it is installed and from `runtime.standalone` otherwise. What
detectron2 has with faults that hurt a run (hooks, writers, launching, logging) is ours and the same on both; it lives
in `engine` and `cli`, and is found here too by the names that detectron2 code knows.

The choice is made once, at first use of a name. `DETREX_EXT_RUNTIME=standalone|detectron2` forces it.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
from types import ModuleType
from typing import Any

from detrex_ext.errors import UserError

# What the host (detectron2 or standalone) provides.
_HOST = (
    "LazyConfigBase", "LazyCall", "instantiate",
    "comm", "create_ddp_model", "HookBase", "EventStorage", "get_event_storage", "has_event_storage",
    "DatasetCatalog", "MetadataCatalog", "Metadata", "Boxes", "BoxMode", "Instances",
    "ShapeSpec", "PathManager", "WarmupParamScheduler", "LRMultiplier", "get_default_optimizer_params",
)  # fmt: skip
# What is ours on both: name -> where it lives.
_OURS = {
    "LazyConfig": "detrex_ext.config",
    "default_argument_parser": "detrex_ext.cli.arguments",
    "launch": "detrex_ext.engine.launching",
    "setup_logger": "detrex_ext.engine.log",
    "TrainerBase": "detrex_ext.engine.loop",
    **dict.fromkeys(("default_setup", "collect_env_info", "seed_all_rng"), "detrex_ext.engine.start"),
    **dict.fromkeys(("IterationTimer", "LRScheduler"), "detrex_ext.engine.hooks"),
    "PeriodicWriter": "detrex_ext.engine.writing",
    "EvalHook": "detrex_ext.engine.eval_hook",
    **dict.fromkeys(
        ("EventWriter", "CommonMetricPrinter", "JSONWriter", "TensorboardXWriter", "default_writers"),
        "detrex_ext.engine.writers",
    ),
}
__all__ = sorted([*_HOST, *_OURS, "name", "version"])

_host: ModuleType | None = None


def host() -> ModuleType:
    """The module that provides the host names, chosen at the first call.

    Raises:
        UserError: `DETREX_EXT_RUNTIME` asks for something that is not there.
    """
    global _host
    if _host is None:
        _host = _choose(os.environ.get("DETREX_EXT_RUNTIME", "").strip().lower())
    return _host


def _choose(forced: str) -> ModuleType:
    if forced not in ("", "standalone", "detectron2"):
        raise UserError(
            f"DETREX_EXT_RUNTIME is '{forced}'; it must be 'standalone' or 'detectron2'\n"
            "  unset it to take detectron2 where it is installed"
        )
    if forced == "standalone" or (not forced and importlib.util.find_spec("detectron2") is None):
        return importlib.import_module(f"{__name__}.standalone")
    try:
        return importlib.import_module(f"{__name__}.detectron2")
    except ImportError as error:
        if forced:
            raise UserError(
                f"DETREX_EXT_RUNTIME=detectron2, but detectron2 cannot be imported: {error}\n"
                "  install detectron2, or unset DETREX_EXT_RUNTIME to run without it"
            ) from error
        logging.getLogger(__name__).warning("detectron2 is there but cannot be imported (%s): going without it", error)
        return importlib.import_module(f"{__name__}.standalone")


def name() -> str:
    """`"detectron2"` or `"standalone"`."""
    return host().__name__.rpartition(".")[2]


def version() -> str:
    """Version of the host: detectron2's, or that of this package."""
    if name() == "detectron2":
        return getattr(sys.modules["detectron2"], "__version__", "unknown")
    from detrex_ext import __version__

    return __version__


def __getattr__(attribute: str) -> Any:
    if attribute in _OURS:
        value = getattr(importlib.import_module(_OURS[attribute]), attribute)
    elif attribute in _HOST:
        value = getattr(host(), attribute)
    else:
        raise AttributeError(f"module '{__name__}' has no attribute '{attribute}'")
    globals()[attribute] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
