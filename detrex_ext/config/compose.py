"""Configs put together: a file, overlays over it, strict overrides."""

from __future__ import annotations

import contextlib
import copy
import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from detrex_ext.errors import UserError
from detrex_ext.runtime import instantiate

from . import files
from .lazy import LazyConfig
from .located import located
from .options import check_options
from .upgrade import absolute, one_size, upgrade

Overlay = str | os.PathLike | tuple[str | os.PathLike, Mapping[str, Any]]
_shipped: dict[str, DictConfig] | None = None
"""Shipped files that this load has run; None between loads, so that a file that was edited is run again."""


def get_config(path: str) -> Any:
    """A shipped LazyConfig file, always a config of one's own: `get_config("common/train.py").train`.

    Args:
        path: relative to the configs folder.

    Raises:
        UserError: no such file (with the nearest names), or an error in it (with file and line).
    """
    root = files.config_roots()[0]
    file = root / path
    if not file.is_file():
        known = [str(f.relative_to(root)) for f in sorted(root.rglob("*.py"))]
        raise UserError(f"no shipped config '{path}' in {root}\n  {files.near(path, known)}")
    with _one_load() as loaded:
        if path not in loaded:
            loaded[path] = _load(str(file))
        return copy.deepcopy(loaded[path])


@contextlib.contextmanager
def _one_load() -> Iterator[dict[str, DictConfig]]:
    """Within it each shipped file is run once."""
    global _shipped
    outer, _shipped = _shipped, {} if _shipped is None else _shipped
    try:
        yield _shipped
    finally:
        _shipped = outer


def load_config(
    path: str | os.PathLike, overlays: Sequence[Overlay] = (), overrides: Sequence[str] = ()
) -> DictConfig:
    """Load a config, lay overlays over it in order, then apply strict overrides.

    Args:
        path: as for `find_config`.
        overlays: names or files with `apply(cfg, **options) -> cfg`; a pair gives options too.
        overrides: `key=value`, see `detrex_ext.config.overrides`.

    Raises:
        UserError: a missing file, an error in a config or overlay (file, line and the line itself), an override
            that does not fit, values that cannot be meant (`options.check_options`).
    """
    with _one_load():
        return laid_over(_load(files.find_config(path)), overlays, overrides)


def laid_over(cfg: DictConfig, overlays: Sequence[Overlay] = (), overrides: Sequence[str] = ()) -> DictConfig:
    """A config that was read, with overlays and strict overrides.

    Args, Raises: as :func:`load_config`.
    """
    cfg = one_size(absolute(cfg))
    with _one_load():
        for overlay in overlays:
            name, options = overlay if isinstance(overlay, tuple) else (overlay, {})
            cfg = apply_overlay(cfg, name, **options)
    return check_options(upgrade(LazyConfig.apply_overrides(upgrade(cfg), list(overrides))))


def apply_overlay(cfg: DictConfig, name_or_path: str | os.PathLike, **options: Any) -> DictConfig:
    """Lay one overlay over a config, in place.

    Raises:
        UserError: a missing overlay, or an error in it.
    """
    file = files.find_overlay(name_or_path)
    try:
        laid = LazyConfig.load(file, "apply")(cfg, **options)
    except KeyError as error:
        if error.args == ("apply",):
            raise UserError(f"overlay {file} has no function apply(cfg, **options)") from None
        raise located(error, file) from error
    except Exception as error:
        raise located(error, file) from error
    return cfg if laid is None else laid


def save_config(cfg: Any, path: str | os.PathLike) -> str:
    """Write a config as YAML that `load_config` reads, and give its text; the log says so where it cannot be read."""
    return LazyConfig.save(cfg, os.fspath(path))


def build(node: Any, name: str, kind: Any = object) -> Any:
    """What the calls of a config node give.

    Args:
        node: of a config.
        name: what a message calls it.
        kind: a class that what is built must be of; or the names of attributes that it must have.

    Raises:
        UserError: a value that one of the calls refuses, with the line that does; something of another kind.
    """
    try:
        built = instantiate(node)
    except (ValueError, AssertionError, OmegaConfBaseException) as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{name} cannot be built: {reason}\n  refused by {at.filename}:{at.lineno}") from error
    lacking = [attribute for attribute in kind if not hasattr(built, attribute)] if isinstance(kind, tuple) else []
    if lacking or not isinstance(built, object if isinstance(kind, tuple) else kind):
        wanted = f"something with {', '.join(lacking)}" if lacking else f"a {kind.__name__}"
        raise UserError(f"{name}: expected {wanted}, its _target_ gives {type(built).__name__}")
    return built


def _load(file: str) -> DictConfig:
    try:
        cfg = LazyConfig.load(file)
    except Exception as error:
        raise located(error, file) from error
    if not OmegaConf.is_dict(cfg) or not cfg:
        found = type(cfg).__name__ if cfg else "nothing"
        raise UserError(f"config {file} holds no keys: expected a mapping, found {found}")
    return cfg


def target_name(node: Any) -> str:
    """Name of what a node makes, without its module; ``_target_`` is the class itself or a text."""
    return str(getattr(node["_target_"], "__name__", node["_target_"])).rpartition(".")[2]
