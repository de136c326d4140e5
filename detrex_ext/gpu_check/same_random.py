"""Random numbers of the host on every device, so that a step on a GPU draws what the same step on the CPU draws."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

_DRAWING = {
    "rand", "rand_like", "randn", "randn_like", "randint", "randint_like", "randperm", "bernoulli", "multinomial",
    "bernoulli_", "uniform_", "normal_", "random_", "exponential_",
}  # fmt: skip


class SameRandom(TorchDispatchMode):
    """Operators that draw do it on the CPU, by its generator; their result goes to where it was wanted."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(getattr(func, "overloadpacket", None), "__name__", "")
        if name not in _DRAWING:
            return func(*args, **kwargs)
        tensors = [x for x in args if isinstance(x, Tensor)]
        wanted = kwargs.get("device") or (tensors[0].device if tensors else torch.device("cpu"))
        host = {key: value for key, value in kwargs.items() if key != "pin_memory"}
        if "device" in host or not tensors:
            host["device"] = torch.device("cpu")
        drawn = func(*tree_map(lambda x: x.cpu() if isinstance(x, Tensor) else x, args), **host)
        return args[0].copy_(drawn) if name.endswith("_") else drawn.to(wanted)
