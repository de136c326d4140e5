"""Operations and memory of a forward pass, counted while it runs on shapes alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

COUNTED = (
    "operations of convolutions, matrix products and attention, a multiplication and an addition as two, and 8 for "
    "each value that is sampled bilinearly; sums, norms and activations are not counted"
)


def _grid_sample(maps: Tensor, grid: Tensor, *args: Any, out_val: Tensor) -> int:
    """Four neighbours, each a multiplication and an addition."""
    return 8 * out_val.numel()


def _deform_conv2d(x: Tensor, weight: Tensor, *args: Any, out_val: Tensor) -> int:
    """Every tap of every channel is sampled, then a convolution."""
    taps = weight[0, 0].numel()
    return out_val[:, 0].numel() * taps * (8 * x.shape[1] + 2 * weight[:, :, 0, 0].numel())


_OURS = {"aten::grid_sampler_2d": _grid_sample, "torchvision::deform_conv2d": _deform_conv2d}


def shapes_only() -> FakeTensorMode:
    """A context in which operators give tensors of the right shape, type and device, and compute nothing."""
    return FakeTensorMode(allow_non_fake_inputs=True)


class Costs(TorchDispatchMode):
    """Operations, and bytes of the tensors that operators made and that are still in use.

    Attributes:
        flops: since the start, see ``COUNTED``.
        peak: largest number of bytes since the start, or since ``restart``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.peak = self._bytes = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def restart(self) -> None:
        """Forget the peak so far; what is in use stays counted."""
        self._drop()
        self.peak = self._bytes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            return False  # there are no values; "is any of it padding?" is answered as for pictures of one size
        out = func(*args, **kwargs)
        packet = func._overloadpacket
        formula = _OURS.get(packet._qualified_op_name) or flop_registry.get(packet)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=out)
        if not func.is_view:  # a view of a weight is no memory of its own
            for tensor in tree_leaves(out):
                if isinstance(tensor, Tensor):
                    self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        known = self._live.get(storage._cdata)
        if known is not None and not known[0].expired():
            return
        self._live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self._bytes += storage.nbytes() - (known[1] if known else 0)
        if self._bytes > self.peak:
            self._drop()
            self.peak = max(self.peak, self._bytes)

    def _drop(self) -> None:
        self._live = {key: entry for key, entry in self._live.items() if not entry[0].expired()}
        self._bytes = sum(size for _, size in self._live.values())
