"""Tensors of which each process holds a part (torch's DTensor), as whole ones and back."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map


def whole(state: Any) -> Any:
    """A nested state with parts put together, on the CPU; other tensors as they are. Collective where it has parts."""
    # DTensor is known by what it can: to import it takes a second, and most trainings have none
    return tree_map(lambda x: x.full_tensor().cpu() if hasattr(x, "full_tensor") else x, state)


def part_like(value: Any, like: Tensor) -> Any:
    """This process's part of a whole tensor, as it holds one of ``like``, of the same shape. Collective.

    What is of another shape, such as a count of steps, stays as it is; so does everything where ``like`` is whole.
    """
    if not hasattr(like, "full_tensor") or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    if hasattr(value, "full_tensor"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
