"""The language of configs: LazyConfig files, overlays, strict overrides, short names; the same on both runtimes."""

from .carried import Carried
from .compose import Overlay, apply_overlay, build, get_config, laid_over, load_config, save_config, target_name
from .files import config_roots, find_config, find_overlay, shipped_configs
from .lazy import LazyConfig
from .upgrade import parts, upgrade

__all__ = [
    "Carried",
    "LazyConfig",
    "Overlay",
    "apply_overlay",
    "build",
    "config_roots",
    "find_config",
    "find_overlay",
    "get_config",
    "laid_over",
    "load_config",
    "parts",
    "save_config",
    "shipped_configs",
    "target_name",
    "upgrade",
]
