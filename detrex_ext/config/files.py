"""Where configs and overlays lie, and finding them by path or by short name."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Any

from detrex_ext.errors import UserError

_PACKAGE_DIR = Path(__file__).resolve().parents[1]
_SUFFIXES = (".py", ".yaml", ".yml")
_SHOWN = 12
PACKAGE = "detrex_ext._cfg_loader"
"""`__package__` of every config file that is being run; how frames of config files are told from others."""


def defined_in(target: str) -> tuple[str, str] | None:
    """(name, file) of a class or function that a config file or an overlay defines; None of one of a module.

    Nothing finds it by its dotted name, so a config that is read again must not name it.
    """
    if not target.startswith(f"{PACKAGE}."):
        return None
    file, _, name = target[len(PACKAGE) + 1 :].partition(".")
    return name, f"{file}.py"


def config_roots() -> tuple[Path, Path]:
    """The folders of the shipped configs and of the projects: of a checkout, or packaged in an installed wheel."""
    checkout = _PACKAGE_DIR.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / "configs" / "common").is_dir():
        return checkout / "configs", checkout / "projects"
    return _PACKAGE_DIR / "_configs", _PACKAGE_DIR / "_projects"


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
    # as documentation names files of a checkout, where there is none
    root = {"configs": configs, "projects": projects}.get("".join(given.parts[:1]), configs)
    inside = root.joinpath(*given.parts[1:])
    for path in (configs / name, inside, projects / name):
        if path.is_file():
            return str(path)
    shipped = shipped_configs()
    stem = name[:-3] if name.endswith(".py") else name
    if stem in shipped:
        return str(shipped[stem])
    if given.is_dir():
        held = ", ".join(sorted(p.name for p in given.iterdir())[:8]) or "nothing"
        raise UserError(
            f"no config '{name}': a folder without config.yaml, so no run of a training; it holds {held}\n"
            "  name a run folder, a config file, or a shipped config"
        )
    if re.match("(zoo|pypi|timm|torchvision):", name):
        raise UserError(f"no config '{name}': it names weights\n  --config-file CONFIG train.init_checkpoint={name}")
    last = re.split(r"[\\/]", stem)[-1]  # a path of Windows too
    raise UserError(f"no config '{name}': no such file, and no shipped config of that name\n  {near(last, shipped)}")


def find_overlay(name_or_path: str | os.PathLike) -> str:
    """The path of an overlay: a `.py` file, or a name in `configs/overlays/`.

    Raises:
        UserError: there is none; names the nearest.
    """
    name = os.fspath(name_or_path)
    folder = config_roots()[0] / "overlays"
    inside = folder / Path(name).name if Path(name).parent.parts == ("configs", "overlays") else Path(name)
    for path in (Path(name), folder / f"{name}.py", inside):
        if path.is_file() and path.suffix == ".py":
            return str(path)
    known = sorted(f.stem for f in folder.glob("*.py"))
    raise UserError(f"no overlay '{name}': no such file, and none of that name in {folder}\n  {near(name, known)}")


def near(name: str, known: Any) -> str:
    """`did you mean ...?`, or what there is where nothing looks like the name."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"there are: {_listed(known)}"


def _listed(names: Any) -> str:
    names = list(names)
    more = f", ... ({len(names)} in all)" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more or "none"


def why_unreadable(text: str, reason: str) -> str:
    """Why a config's text cannot be read again, and what is to do so that it can."""
    found = sorted({defined_in(name) for name in re.findall(rf"{re.escape(PACKAGE)}\.[\w.<>]+", text)})
    if not found:
        return f"is for reading only ({reason})"
    told = ", ".join(f"{name} is defined in {file}" for name, file in found)
    return (
        f"is for reading only: {told}, not in a module; --resume needs all of the command that started the run, and "
        "analyze cannot read the run. Put it into a module on PYTHONPATH and import it from there"
    )
