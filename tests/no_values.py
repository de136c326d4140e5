"""A GPU that need not be there: tensors that say where they are and have no values."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode


@contextlib.contextmanager
def without_values() -> Iterator[None]:
    """A mode in which tensors of the device ``cuda`` can be made; skips the test where torch asks a real one."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        try:
            torch.zeros(1).to("cuda")[torch.zeros(1, dtype=torch.int64, device="cuda")]
        except RuntimeError as error:
            why = str(error).split("\n")[0]
            pytest.skip(f"torch {torch.__version__} wants a real GPU for tensors without values: {why}")
        yield
