"""``.safetensors``: tensors by name; in files of ours also what is known of them, and their checksums.

The format has texts by name beside the tensors. Ours is one, as JSON: ``known``, such as class names and the config,
and ``crc32`` of the bytes of each tensor.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from detrex_ext.errors import UserError

from .stand_ins import Damaged

ENDING, _OURS = ".safetensors", "detrex_ext"


def read_safetensors(path: str) -> dict[str, Any]:
    """Tensors of a file, on the CPU, with what is known of them where it is one of ours.

    Raises:
        UserError: the package is missing. Damaged: the checksums are not those of the tensors.
    """
    with _package(path).safe_open(path, "pt") as file:
        texts, tensors = file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}
    if _OURS not in texts:
        return tensors
    told = json.loads(texts[_OURS])
    known, sums = told["known"], told["crc32"]
    bad = [key for key, value in tensors.items() if sums.get(key) != _crc32(value)]
    if bad or sums.keys() - tensors.keys():
        raise Damaged(f"the values of {', '.join(bad[:3]) or 'tensors that are missing'}")
    return {**(known if isinstance(known, dict) else {}), "model": tensors}


def to_safetensors(path: str | os.PathLike, model: Mapping[str, Tensor], known: Mapping[str, Any]) -> bytes:
    """The contents of a file; a value that JSON does not have becomes its text.

    Raises:
        UserError: the package is missing.
    """
    package = _package(path)
    seen: set[int] = set()
    own = {}
    for key, value in model.items():  # the format has no two tensors of the same bytes
        shared = value.untyped_storage().data_ptr() in seen or not value.is_contiguous()
        own[key] = value.detach().clone(memory_format=torch.contiguous_format) if shared else value.detach()
        seen.add(value.untyped_storage().data_ptr())
    told = {"known": dict(known), "crc32": {key: _crc32(value) for key, value in own.items()}}
    return package.torch.save(own, {"format": "pt", _OURS: json.dumps(told, default=str)})


def _crc32(value: Tensor) -> int:
    return zlib.crc32(memoryview(value.reshape(-1).view(torch.uint8).numpy())) if value.numel() else 0


def _package(path: str | os.PathLike) -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise UserError(f"checkpoint {path}: needs a package: {error}\n  pip install safetensors") from None
    return safetensors
