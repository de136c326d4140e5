"""Where a verb writes: checked before it computes anything."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TextIO

from detrex_ext.errors import UserError


def make_folder(path: str | os.PathLike, option: str = "--output") -> Path:
    """The folder, made if it is not there.

    Raises:
        UserError: it cannot be made, or not be written to.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(folder, os.W_OK) else "no permission to write to it"
    except OSError as error:
        reason = str(error.strerror)
    if reason:
        raise UserError(f"{option} {path}: expected a folder that can be made or written to: {reason}")
    return folder


def in_run(run: str | os.PathLike, name: str) -> Path:
    """Where a verb writes that is told no other place: a file or folder of a run, which may be a stranger's.

    Raises:
        UserError: it is a link or holds one, so that what is written would go elsewhere.
    """
    path = Path(run) / name
    link = path if path.is_symlink() else next((found for found in path.rglob("*") if found.is_symlink()), None)
    if link is not None:
        raise UserError(
            f"{link} is a link, and what is written would go to {link.resolve()}\n"
            "  take it away, or name another place by --output"
        )
    return path


def check_file(path: str | os.PathLike | None, option: str) -> None:
    """Checks that a file can be written; None is none, "-" standard output.

    Raises:
        UserError: a folder is there, or its own folder is not.
    """
    if path in (None, "-"):
        return
    folder = Path(path).resolve().parent
    if Path(path).is_dir() or not folder.is_dir():
        found = "it is a folder" if Path(path).is_dir() else f"there is no folder {folder}"
        raise UserError(f"{option} {path}: expected a file to write; {found}")


def show(text: str, stream: TextIO | None = None) -> None:
    """Prints any text, whatever letters the terminal has; on standard output unless another stream is named."""
    stream = stream or sys.stdout
    encoding = stream.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream)
