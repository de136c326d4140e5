"""What made a checkpoint."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

import torch

from detrex_ext import __version__

KEY = "made_by"
"""Of a checkpoint: versions by name, and the commit of the checkout where there is one."""

_DESCRIBE = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]  # a commit, not a tag


def made_by() -> dict[str, str]:
    """Versions of this package and torch, and the commit, with ``-dirty`` where files differ from it."""
    commit = checkout()
    return {"detrex_ext": __version__, "torch": str(torch.__version__), **({"commit": commit} if commit else {})}


@functools.cache
def checkout() -> str:
    """The commit of the checkout that this file is of; "" where it is none, as of an installed package."""
    here = Path(__file__).resolve()
    try:
        for words in (["ls-files", "--error-unmatch", here.name], _DESCRIBE):
            done = subprocess.run(
                ["git", *words], cwd=here.parent, capture_output=True, text=True, timeout=10, check=True,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
