"""Errors in config files as one message: file, line and the line itself."""

from __future__ import annotations

import traceback
from pathlib import Path

import yaml

from detrex_ext.errors import UserError

from .files import PACKAGE


def located(error: Exception, file: str) -> UserError:
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
