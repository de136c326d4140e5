"""Files of weights: how they are read without running what is in them, how they are written whole.

Writing goes to a temporary file that replaces the old one in one step, so that a reader sees the old file or the new,
never a part.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from detrex_ext.errors import UserError

from .addresses import FORMAT_HELP, resolve
from .contents import checked
from .foreign import by_our_names
from .safetensors_files import ENDING, read_safetensors, to_safetensors
from .stand_ins import Damaged, Refused
from .unpickling import read_pickle, read_torch

TEMP_PREFIX = ".saving-"
_READERS = {".pkl": read_pickle, ENDING: read_safetensors}


def read_checkpoint(path: str | os.PathLike, manager: Any = None) -> dict[str, Any]:
    """The contents of a checkpoint file, on the CPU; a bare state dict comes back as ``{"model": state dict}``.

    Whatever others call them, trained weights become ``model`` and averaged ones ``ema_state``; see
    :func:`~detrex_ext.checkpoint.foreign.by_our_names`.

    Raises:
        UserError: missing, truncated, not a checkpoint, holding objects that are not plain data, or values that no
            training writes (:func:`~detrex_ext.checkpoint.contents.checked`).
    """
    local = resolve(path, manager)
    try:
        data = _READERS.get(os.path.splitext(local)[1], read_torch)(local)
    except UserError:
        raise
    except Refused as error:
        raise UserError(
            f"checkpoint {path}: holds {error}, which is not read because reading it could run code\n"
            "  save it again with tensors and plain values only"
        ) from error
    except Damaged as error:
        raise UserError(
            f"checkpoint {path}: is damaged: {error} are not those that were saved, by their checksum\n"
            "  copy or download it again, or take another checkpoint"
        ) from error
    except Exception as error:
        size = os.path.getsize(local)
        raise UserError(
            f"checkpoint {path}: cannot be read, it is truncated or not a checkpoint ({size:,} bytes; "
            f"{type(error).__name__})\n  expected {FORMAT_HELP}; copy or download it again"
        ) from error
    if not isinstance(data, dict) or not data:
        raise UserError(f"checkpoint {path}: holds {type(data).__name__}, expected {FORMAT_HELP}")
    return checked(by_our_names(data, os.fspath(path)), os.fspath(path))


def own_iteration(path: str | os.PathLike) -> int | None:
    """The iteration (from 0) that a ``.pth`` file of a training states; None where it states none or cannot be read.

    Tensors are not read.
    """
    try:
        data = read_torch(path, tensors=False)
    except Exception:
        return None
    iteration = data.get("iteration") if isinstance(data, dict) else None
    return iteration if isinstance(iteration, int) else None


def write_checkpoint(data: Any, path: str | os.PathLike) -> None:
    """``torch.save`` that leaves either the old file or the whole new one, whatever happens in between.

    Every tensor gets a checksum, the CRC-32 of its member of the archive. A path that ends with ``.safetensors`` gets
    the tensors of ``model``, and as text what else there is.
    """
    if os.fspath(path).endswith(ENDING):
        content = to_safetensors(path, data["model"], {key: value for key, value in data.items() if key != "model"})
        return write_whole(path, lambda file: file.write(content))
    write_whole(path, lambda file: save(data, file))


def save(data: Any, file: IO[bytes]) -> None:
    """``torch.save`` with checksums, also where the process has turned them off (which torch 2.6 and newer can)."""
    asked = getattr(torch.serialization, "get_crc32_options", lambda: True)()
    if not asked:
        torch.serialization.set_crc32_options(True)
    try:
        torch.save(data, file)
    finally:
        if not asked:
            torch.serialization.set_crc32_options(False)


def write_json(value: Any, path: str | os.PathLike, indent: int | None = 1) -> None:
    """A JSON file that is whole or not there; its folder is made."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    write_whole(path, lambda file: file.write(json.dumps(value, indent=indent).encode()))


def write_whole(path: str | os.PathLike, write: Callable[[IO[bytes]], Any]) -> None:
    """Replaces a file in one step by what ``write`` puts into a temporary one beside it.

    Raises:
        OSError: it cannot be written; the old one is still there.
    """
    folder, name = os.path.split(os.path.abspath(path))
    handle, temp = tempfile.mkstemp(prefix=f"{TEMP_PREFIX}{name}-", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temp, 0o666 & ~_umask())  # mkstemp makes private files; others may read a run folder
        os.replace(temp, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temp)
        # torch.save reports a full disk as an error of its own
        reason = error.__context__ if type(error) is RuntimeError else error
        if isinstance(reason, OSError):
            raise OSError(reason.errno, reason.strerror, os.fspath(path)) from error
        raise
    _sync_folder(folder)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: str) -> None:
    """Makes the rename itself durable, where the system can open folders."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Deletes the temporary files that a killed process left in a folder."""
    for path in Path(folder).glob(f"{TEMP_PREFIX}*"):
        with contextlib.suppress(OSError):
            path.unlink()
