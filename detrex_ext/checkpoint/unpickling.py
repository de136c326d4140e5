"""Reading files of weights without running what is in them.

``.pth`` goes through torch's ``weights_only`` reader with an allow-list of plain data types, ``.pkl`` through an
unpickler that knows numpy arrays and containers only; ``.safetensors`` holds tensors alone.
"""

from __future__ import annotations

import _codecs
import argparse
import collections
import contextlib
import pickle
import typing
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from detrex_ext.errors import UserError


class Refused(Exception):
    """The name of an object that is not on the allow-list."""


def read_torch(path: str, mmap: bool = False) -> Any:
    """Contents of a ``.pth`` file, on the CPU; ``Refused`` where it names anything but plain data.

    Args:
        path: of a local file.
        mmap: leave tensors in the file until they are looked at.
    """
    with _allowed():
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        except pickle.UnpicklingError as error:
            text = str(error)
            if "GLOBAL " in text:
                raise Refused(text.split("GLOBAL ", 1)[1].split(" was not", 1)[0].strip()) from error
            raise


def _plain_types() -> list[Any]:
    """Types of plain values that older training files hold beside tensors."""
    from omegaconf import DictConfig, ListConfig, base, nodes

    multiarray = np._core.multiarray if hasattr(np, "_core") else np.core.multiarray
    rebuild: list[Callable] = [multiarray._reconstruct, multiarray.scalar]
    return [
        argparse.Namespace,
        collections.OrderedDict,
        collections.defaultdict,
        typing.Any,
        dict,
        list,
        int,
        DictConfig,
        ListConfig,
        base.ContainerMetadata,
        base.Metadata,
        nodes.AnyNode,
        np.ndarray,
        np.dtype,
        *rebuild,
        *((f, f"numpy.core.multiarray.{f.__name__}") for f in rebuild),
        *(type(np.dtype(t)) for t in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")),
    ]


@contextlib.contextmanager
def _allowed() -> Iterator[None]:
    if hasattr(torch.serialization, "safe_globals"):
        with torch.serialization.safe_globals(_plain_types()):
            yield
    else:  # torch 2.4 has no scoped form, no renamed entries, and not the bytes of numpy's numbers
        plain = [t for t in _plain_types() if not isinstance(t, tuple)]
        torch.serialization.add_safe_globals([*plain, _codecs.encode])
        yield


class _ArraysOnly(pickle.Unpickler):
    """Unpickles numpy arrays, numbers, strings and containers; refuses every other name."""

    allowed = {
        ("_codecs", "encode"),
        ("collections", "OrderedDict"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        *(
            (f"numpy.{core}.multiarray", name)
            for core in ("core", "_core")
            for name in ("_reconstruct", "scalar", "_frombuffer")
        ),
        *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed and module != "numpy.dtypes":
            raise Refused(f"{module}.{name}")
        return super().find_class(module, name)


def read_pickle(path: str) -> Any:
    """Contents of a ``.pkl`` file of arrays; ``Refused`` where it names anything else."""
    with open(path, "rb") as file:
        return _ArraysOnly(file, encoding="latin1").load()


def read_safetensors(path: str) -> dict[str, torch.Tensor]:
    """Tensors of a ``.safetensors`` file, on the CPU."""
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise UserError(f"checkpoint {path}: needs a package to be read: {error}\n  pip install safetensors") from None
    return load_file(path)
