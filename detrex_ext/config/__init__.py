"""Finding, loading and saving configs: shipped files by name, overlays, strict overrides.

A config is a LazyConfig file. It is the same with and without detectron2.
"""

from __future__ import annotations

import difflib
import os
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from detrex_ext.errors import UserError
from detrex_ext.runtime import LazyConfig, instantiate
from detrex_ext.runtime.standalone.lazy import PACKAGE

from .options import check_options

Overlay = str | os.PathLike | tuple[str | os.PathLike, Mapping[str, Any]]
_PACKAGE_DIR = Path(__file__).resolve().parents[1]
_SUFFIXES = (".py", ".yaml", ".yml")


def config_roots() -> tuple[Path, Path]:
    """The folders of the shipped configs and of the projects: of a checkout, or packaged in an installed wheel."""
    checkout = _PACKAGE_DIR.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / "configs" / "common").is_dir():
        return checkout / "configs", checkout / "projects"
    return _PACKAGE_DIR / "_configs", _PACKAGE_DIR / "_projects"


def get_config(path: str) -> Any:
    """A shipped LazyConfig file, loaded anew: `get_config("common/train.py").train`.

    Args:
        path: relative to the configs folder.

    Raises:
        UserError: no such file (with the nearest names), or an error in it (with file and line).
    """
    root = config_roots()[0]
    file = root / path
    if not file.is_file():
        known = [str(f.relative_to(root)) for f in sorted(root.rglob("*.py"))]
        raise UserError(f"no shipped config '{path}' in {root}\n  {_near(path, known)}")
    return _load(str(file))


def shipped_configs() -> dict[str, Path]:
    """Short name -> file of every shipped config that can be trained, without `common/` and `overlays/`."""
    configs, projects = config_roots()
    files = [f for f in configs.rglob("*.py") if f.relative_to(configs).parts[0] not in ("common", "overlays")]
    files += projects.glob("*/configs/**/*.py")
    return {f.stem: f for f in sorted(files) if not f.stem.startswith("_")}


def find_config(name_or_path: str | os.PathLike) -> str:
    """The path of a config.

    Args:
        name_or_path: a file, a run folder with its `config.yaml`, a path below a shipped folder, or a short name
            (`small`, `deformable_detr_r50_50ep`).

    Raises:
        UserError: none of these; names the nearest.
    """
    name = os.fspath(name_or_path)
    if not name:
        raise UserError("no config given\n  --config-file NAME_OR_PATH; shipped: " + _listed(shipped_configs()))
    given = Path(name).expanduser()
    for path in (given, given / "config.yaml", Path(f"{given}.py")):
        if path.is_file() and path.suffix in _SUFFIXES:
            return str(path)
    if given.is_file():
        raise UserError(f"config '{name}' must end with .py, .yaml or .yml")
    configs, projects = config_roots()
    for path in (configs / name, configs.parent / name, projects / name):
        if path.is_file():
            return str(path)
    shipped = shipped_configs()
    stem = name[:-3] if name.endswith(".py") else name
    if stem in shipped:
        return str(shipped[stem])
    what = "a folder without config.yaml" if given.is_dir() else "no such file"
    raise UserError(f"no config '{name}': {what}, and no shipped config of that name\n  {_near(stem, shipped)}")


def find_overlay(name_or_path: str | os.PathLike) -> str:
    """The path of an overlay: a `.py` file, or a name in `configs/overlays/`.

    Raises:
        UserError: there is none; names the nearest.
    """
    name = os.fspath(name_or_path)
    folder = config_roots()[0] / "overlays"
    for path in (Path(name), folder / f"{name}.py"):
        if path.is_file() and path.suffix == ".py":
            return str(path)
    known = sorted(f.stem for f in folder.glob("*.py"))
    raise UserError(f"no overlay '{name}': no such file, and none of that name in {folder}\n  {_near(name, known)}")


def load_config(
    path: str | os.PathLike, overlays: Sequence[Overlay] = (), overrides: Sequence[str] = ()
) -> DictConfig:
    """Load a config, lay overlays over it in order, then apply strict overrides.

    Args:
        path: as for `find_config`.
        overlays: names or files with `apply(cfg, **options) -> cfg`; a pair gives options too.
        overrides: `key=value`, see `detrex_ext.runtime.overrides`.

    Raises:
        UserError: a missing file, an error in a config or overlay (file, line and the line itself), an override
            that does not fit, values that cannot be meant (`options.check_options`).
    """
    cfg = _load(find_config(path))
    for overlay in overlays:
        name, options = overlay if isinstance(overlay, tuple) else (overlay, {})
        cfg = apply_overlay(cfg, name, **options)
    return check_options(LazyConfig.apply_overrides(cfg, list(overrides)))


def apply_overlay(cfg: DictConfig, name_or_path: str | os.PathLike, **options: Any) -> DictConfig:
    """Lay one overlay over a config, in place.

    Raises:
        UserError: a missing overlay, or an error in it.
    """
    file = find_overlay(name_or_path)
    try:
        laid = LazyConfig.load(file, "apply")(cfg, **options)
    except KeyError as error:
        if error.args == ("apply",):
            raise UserError(f"overlay {file} has no function apply(cfg, **options)") from None
        raise _located(error, file) from error
    except Exception as error:
        raise _located(error, file) from error
    return cfg if laid is None else laid


def save_config(cfg: Any, path: str | os.PathLike) -> None:
    """Write a config as YAML that `load_config` reads; the log says so where it cannot be read again."""
    LazyConfig.save(cfg, os.fspath(path))


def build(node: Any, name: str) -> Any:
    """What the calls of a config node give; `name` is what a message calls it.

    Raises:
        UserError: a value that one of the calls refuses, with the line that does.
    """
    try:
        return instantiate(node)
    except (ValueError, AssertionError, OmegaConfBaseException) as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{name} cannot be built: {reason}\n  refused by {at.filename}:{at.lineno}") from error


def _load(file: str) -> DictConfig:
    try:
        cfg = LazyConfig.load(file)
    except Exception as error:
        raise _located(error, file) from error
    if not OmegaConf.is_dict(cfg):
        raise UserError(f"config {file} holds no keys: expected a mapping, found {type(cfg).__name__}")
    return cfg


def _located(error: Exception, file: str) -> UserError:
    """The error as one message with the file, line and text of the config it happened in."""
    text, where = "", file
    if isinstance(error, SyntaxError):
        where, text = f"{error.filename}:{error.lineno}", (error.text or "").strip()
        message = f"{type(error).__name__}: {error.msg}"
    elif isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        where = f"{file}:{error.problem_mark.line + 1}"
        message = f"not valid YAML: {error.problem}"
    else:
        message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        for frame, line in traceback.walk_tb(error.__traceback__):
            if frame.f_globals.get("__package__") == PACKAGE:
                where = f"{frame.f_code.co_filename}:{line}"
                text = _line(frame.f_code.co_filename, line)
    missing = (getattr(error, "name", None) or "").split(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    parts = [f"{where}: {message}"] + ([f"  {text}"] if text else [])
    if missing in ("detectron2", "detrex"):
        parts.append(f"  this config needs {missing}, which is not installed; detrex_ext.runtime has the common names")
    return UserError("\n".join(parts))


def _line(file: str, number: int) -> str:
    lines = Path(file).read_text(encoding="utf-8").splitlines()
    return lines[number - 1].strip() if 0 < number <= len(lines) else ""


def _near(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"there are: {_listed(known)}"


def _listed(names: Any) -> str:
    return ", ".join(names) or "none"
