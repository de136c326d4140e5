"""Operations and memory of what runs, counted while it runs, on shapes alone or in earnest: the one counter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

COUNTED = (
    "operations of convolutions, matrix products and attention, a multiplication and an addition as two, and 8 for "
    "each value that is sampled bilinearly; sums, norms and activations are not counted"
)


def _addmm_(total: Tensor, a: Tensor, b: Tensor, *args: Any, out_val: Tensor, **kwargs: Any) -> int:
    """A product added in place: torch counts ``addmm`` alone."""
    return 2 * a.shape[0] * a.shape[1] * b.shape[1]


def _attention(q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> int:
    """Attention on a CPU, which some versions of torch leave out."""
    return sdpa_flop_count(q.shape, k.shape, v.shape)


def _attention_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> int:
    return sdpa_backward_flop_count(grad.shape, q.shape, k.shape, v.shape)


def _grid_sample(maps: Tensor, grid: Tensor, *args: Any, out_val: Tensor) -> int:
    """Four neighbors, each a multiplication and an addition."""
    return 8 * out_val.numel()


def _deform_conv2d(x: Tensor, weight: Tensor, *args: Any, out_val: Tensor) -> int:
    """Every tap of every channel is sampled, then a convolution."""
    taps = weight[0, 0].numel()
    return out_val[:, 0].numel() * taps * (8 * x.shape[1] + 2 * weight[:, :, 0, 0].numel())


_PRODUCTS = {
    "aten::addmm_": _addmm_,
    "aten::_scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
}
_SAMPLINGS = {"aten::grid_sampler_2d": _grid_sample, "torchvision::deform_conv2d": _deform_conv2d}


def shapes_only() -> FakeTensorMode:
    """A context in which operators give tensors of the right shape, type and device, and compute nothing."""
    return FakeTensorMode(allow_non_fake_inputs=True)


class Costs(TorchDispatchMode):
    """Operations, bytes that operators read and write, and bytes of the tensors that they made and that are in use.

    Args:
        sampling: count what samples bilinearly too; without it products and convolutions alone are counted.

    Attributes:
        flops: since the start, see ``COUNTED``.
        moved: bytes since the start, as if no operator found its input in a cache; views move none.
        peak: largest number of bytes in use since the start, or since ``restart``.
    """

    def __init__(self, sampling: bool = True) -> None:
        super().__init__()
        self._ours = {**_PRODUCTS, **(_SAMPLINGS if sampling else {})}
        self.flops = self.moved = self.peak = self._bytes = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def now(self) -> int:
        """Bytes in use."""
        self._drop()
        return self._bytes

    def restart(self) -> int:
        """Forget the peak so far; what is in use stays counted, and is returned."""
        self.peak = self.now()
        return self.peak

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return False if args[0].dtype == torch.bool else 1  # "is any of it padding?": as for images of one size
        out = func(*args, **kwargs)
        packet = func._overloadpacket
        formula = self._ours.get(packet._qualified_op_name) or flop_registry.get(packet)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=out)
        if not func.is_view:  # a view of a weight is no memory of its own
            made = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
            read = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
            self.moved += sum(x.numel() * x.element_size() for x in (*read, *made) if x.layout == torch.strided)
            for tensor in made:
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
