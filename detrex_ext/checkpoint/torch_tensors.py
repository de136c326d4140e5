"""What torch's names in a checkpoint stand for: tensors that are views of bytes that are there, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from .stand_ins import KNOWN, Inert, NotRead, Refused, whole_numbers

_MOST_EXPANDED = 2**28  # bytes that the tensors of a file may stand for beyond those that are there
_NUMBERS = {
    **{"Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16},
    **{"Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8},
    **{"Bool": torch.bool, "ComplexDouble": torch.complex128, "ComplexFloat": torch.complex64},
    **{"QInt8": torch.qint8, "QUInt8": torch.quint8, "QInt32": torch.qint32},
}


@dataclass(frozen=True)
class StorageType:
    """The name of a type of storages."""

    dtype: torch.dtype


@dataclass
class Expanded:
    """Bytes that tensors of a file stand for beyond those that are there."""

    size: int = 0

    def add(self, size: int) -> None:
        """Raises ``Refused`` where it becomes more than memory may hold."""
        self.size += max(0, size)
        if self.size > _MOST_EXPANDED:
            raise Refused(f"tensors that stand for {self.size:,} bytes more than are there")


@dataclass(frozen=True)
class Storage:
    """Bytes that tensors are views of.

    Attributes:
        dtype: of tensors that state none.
        size: number of bytes.
        data: uint8, the bytes; None: they are not wanted.
        expanded: of the file.
    """

    dtype: torch.dtype
    size: int
    data: torch.Tensor | None
    expanded: Expanded

    def tensor(self, offset: Any, size: Any, stride: Any, dtype: Any = None) -> torch.Tensor | NotRead:
        """A view; offset and stride are in numbers of the dtype. Without data it has no values either."""
        dtype = dtype or self.dtype
        (offset,), size, stride = whole_numbers((offset,)), whole_numbers(size), whole_numbers(stride)
        if not isinstance(dtype, torch.dtype) or len(size) != len(stride):
            raise Refused("a tensor of unknown form")
        count, last = 1, offset
        for length, step in zip(size, stride, strict=True):
            count, last = count * length, last + (length - 1) * step
        if count and (last + 1) * dtype.itemsize > self.size:
            raise Refused(f"a tensor of shape {str(size)[:80]} in {self.size:,} bytes")
        self.expanded.add(count * dtype.itemsize - self.size)
        if str(dtype).startswith("torch.q"):
            return NotRead("quantized tensor")
        if self.data is None or not count:
            return torch.empty_strided(size, stride, dtype=dtype, device="meta" if self.data is None else "cpu")
        begin, rest = divmod(self.data.storage_offset(), dtype.itemsize)
        if rest:
            raise Refused("a tensor that begins inside of a number")
        return torch.empty(0, dtype=dtype).set_(self.data.untyped_storage(), begin + offset, size, stride)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *more: Any) -> torch.Tensor | NotRead:
    """Version 1 has no more, 2 grad, hooks and perhaps bits (conjugate, negative), 3 the dtype before these."""
    if not isinstance(storage, Storage):
        raise Refused("a tensor without a storage")
    dtype = next((one for one in more if isinstance(one, torch.dtype)), None)
    if more and isinstance(more[-1], dict) and more[-1] and len(more) > 2:
        return NotRead("conjugate tensor")
    return storage.tensor(offset, size, stride, dtype)


def _meta(dtype: Any, size: Any, stride: Any, *_: Any) -> torch.Tensor:
    return torch.empty_strided(whole_numbers(size), whole_numbers(stride), dtype=dtype, device="meta")


def _of_class(make: Any, kind: Any, args: Any, state: Any) -> Any:
    return make(*args)


def _first(value: Any, *_: Any) -> Any:
    return value


def _not_read(kind: str) -> Any:
    return lambda *_: NotRead(kind)


_REBUILT = {
    **{"_rebuild_tensor": _tensor, "_rebuild_tensor_v2": _tensor, "_rebuild_tensor_v3": _tensor},
    **{"_rebuild_parameter": _first, "_rebuild_parameter_with_state": _first},
    "_rebuild_meta_tensor_no_storage": _meta,
    "_rebuild_sparse_tensor": _not_read("sparse tensor"),
    "_rebuild_sparse_csr_tensor": _not_read("sparse tensor"),
    "_rebuild_qtensor": _not_read("quantized tensor"),
    "_rebuild_nested_tensor": _not_read("nested tensor"),
    "_rebuild_wrapper_subclass": _not_read("tensor of a class of its own"),
}
_QUANTIZED = (
    *("tensor_affine", "tensor_symmetric"),
    *("channel_affine", "channel_symmetric", "channel_affine_float_qparams"),
)
KNOWN_TORCH: dict[tuple[str, str], Any] = {
    **KNOWN,
    **{("torch._utils", name): make for name, make in _REBUILT.items()},
    ("torch._tensor", "_rebuild_from_type_v2"): _of_class,
    ("torch.nn.parameter", "Parameter"): Inert(),
    ("torch", "Tensor"): Inert(),
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    ("torch.serialization", "_get_layout"): _not_read("layout"),
    **{("torch", f"per_{name}"): Inert() for name in _QUANTIZED},
    **{("torch", name): value for name, value in vars(torch).items() if isinstance(value, torch.dtype)},
    **{
        (module, f"{name}Storage"): StorageType(dtype)
        for module in ("torch", "torch.cuda")
        for name, dtype in _NUMBERS.items()
    },
    ("torch.storage", "UntypedStorage"): StorageType(torch.uint8),
}
"""(module, name) -> what is taken for it in a file of torch."""
