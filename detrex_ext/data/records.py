"""A read-only list of records, packed so that loader workers share its memory."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


class PackedRecords(Sequence):
    """Each record pickled into one byte array.

    A list of many small Python objects is copied page by page in every forked worker, as reading an object changes
    its reference count; one array is not. Reading returns a fresh copy, so a caller may change it.
    """

    def __init__(self, records: Iterable[Any]) -> None:
        packed = [pickle.dumps(record, protocol=pickle.HIGHEST_PROTOCOL) for record in records]
        self._ends = np.cumsum([len(p) for p in packed], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(packed), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index):  # noqa: ANN001, ANN204 - int -> record, slice -> list of records
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        size = len(self)
        index = int(index)
        if not -size <= index < size:
            raise IndexError(f"record {index} of {size}")
        index %= size
        start = int(self._ends[index - 1]) if index else 0
        return pickle.loads(memoryview(self._bytes)[start : int(self._ends[index])])
