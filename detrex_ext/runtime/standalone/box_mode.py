"""How numbers describe a box, with detectron2's names."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum, unique
from typing import Any

import numpy as np
import torch
from torch import Tensor


@unique
class BoxMode(IntEnum):
    """How four (or five) numbers describe a box. An int, so that it can be written to JSON."""

    XYXY_ABS = 0
    XYWH_ABS = 1
    XYXY_REL = 2
    XYWH_REL = 3
    XYWHA_ABS = 4

    @staticmethod
    def convert(box: Any, from_mode: BoxMode, to_mode: BoxMode) -> Any:
        """Convert between XYXY_ABS and XYWH_ABS, from XYWHA_ABS to the XYXY_ABS around it, from XYWH_ABS to XYWHA_ABS.

        Args:
            box: list or tuple of 4 numbers, of XYWHA_ABS 5, or an (N, 4) or (N, 5) array or tensor. It is not modified.
            from_mode: what the numbers are.
            to_mode: what they become; the same as `from_mode` gives `box` itself.

        Returns:
            Boxes of the type that came in.

        Raises:
            NotImplementedError: for relative boxes, or other ways with rotated ones.
            ValueError: a list, or a rotated box, that does not have as many numbers as `from_mode` says.
        """
        if from_mode == to_mode:
            return box
        if (from_mode, to_mode) in _ROTATED:
            return _through_tensor(box, _ROTATED[from_mode, to_mode])
        if {from_mode, to_mode} != {BoxMode.XYXY_ABS, BoxMode.XYWH_ABS}:
            raise NotImplementedError(f"conversion from {BoxMode(from_mode).name} to {BoxMode(to_mode).name}")
        sign = 1 if from_mode == BoxMode.XYWH_ABS else -1
        if isinstance(box, list | tuple):
            if len(box) != 4:
                raise ValueError(f"a box has 4 numbers, found {len(box)}: {box}")
            x, y, a, b = box
            return type(box)((x, y, a + sign * x, b + sign * y))
        out = box.copy() if isinstance(box, np.ndarray) else box.clone()
        out[..., 2:4] += sign * out[..., :2]
        return out


def _through_tensor(box: Any, convert: Callable[[Tensor], Tensor]) -> Any:
    tensor = torch.as_tensor(box, dtype=torch.float64)
    if isinstance(box, list | tuple):
        if tensor.dim() != 1:
            raise ValueError(f"one box is 4 or 5 numbers, found {box}")
        return type(box)(convert(tensor).tolist())
    out = convert(tensor)
    return out.numpy().astype(box.dtype) if isinstance(box, np.ndarray) else out.to(box)


def _around(box: Tensor) -> Tensor:
    """The upright XYXY box (..., 4) around (center x, center y, width, height, degrees) (..., 5)."""
    if box.shape[-1] != 5:
        raise ValueError(f"a rotated box has 5 numbers, found {box.shape[-1]}")
    center, size, angle = box[..., :2], box[..., 2:4], box[..., 4:].deg2rad()
    half = (angle.cos().abs() * size + angle.sin().abs() * size.flip(-1)) / 2
    return torch.cat((center - half, center + half), dim=-1)


def _unturned(box: Tensor) -> Tensor:
    """(center x, center y, width, height, 0 degrees) (..., 5) of an XYWH box (..., 4)."""
    if box.shape[-1] != 4:
        raise ValueError(f"a box has 4 numbers, found {box.shape[-1]}")
    size = box[..., 2:]
    return torch.cat((box[..., :2] + size / 2, size, torch.zeros_like(size[..., :1])), dim=-1)


_ROTATED = {
    (BoxMode.XYWHA_ABS, BoxMode.XYXY_ABS): _around,
    (BoxMode.XYWH_ABS, BoxMode.XYWHA_ABS): _unturned,
}
