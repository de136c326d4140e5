"""Axis-aligned boxes in absolute pixels, with detectron2's names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
        """Convert boxes between XYXY_ABS and XYWH_ABS.

        Args:
            box: list or tuple of 4, or an (N, 4) array or tensor. It is not modified.
            from_mode: what the numbers are.
            to_mode: what they become; the same as `from_mode` gives `box` itself.

        Returns:
            Boxes of the type that came in.

        Raises:
            NotImplementedError: for relative or rotated boxes.
            ValueError: for a list that does not hold four numbers.
        """
        if from_mode == to_mode:
            return box
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


class Boxes:
    """N boxes (x0, y0, x1, y1) in absolute pixels as a float32 tensor of shape (N, 4)."""

    def __init__(self, tensor: Tensor | np.ndarray | Sequence[Sequence[float]]) -> None:
        tensor = torch.as_tensor(tensor, dtype=torch.float32)
        if tensor.numel() == 0:
            tensor = tensor.reshape(-1, 4)
        if tensor.dim() != 2 or tensor.size(-1) != 4:
            raise AssertionError(f"boxes must have shape (N, 4), found {tuple(tensor.shape)}")
        self.tensor = tensor

    def clone(self) -> Boxes:
        """Boxes with a tensor of their own."""
        return Boxes(self.tensor.clone())

    def to(self, *args: Any, **kwargs: Any) -> Boxes:
        """Boxes whose tensor went through `Tensor.to`, then made float32 again."""
        return Boxes(self.tensor.to(*args, **kwargs))

    def area(self) -> Tensor:
        """Areas in square pixels, shape (N,)."""
        wh = self.tensor[:, 2:] - self.tensor[:, :2]
        return wh[:, 0] * wh[:, 1]

    def clip(self, box_size: tuple[int, int]) -> None:
        """Clip in place to an image of `(height, width)`."""
        if not torch.isfinite(self.tensor).all():
            raise AssertionError("boxes to clip hold inf or NaN")
        height, width = box_size
        limit = self.tensor.new_tensor([width, height, width, height])
        self.tensor = torch.minimum(self.tensor.clamp(min=0), limit)

    def nonempty(self, threshold: float = 0.0) -> Tensor:
        """Mask (N,) of boxes wider and higher than `threshold`."""
        return ((self.tensor[:, 2:] - self.tensor[:, :2]) > threshold).all(dim=1)

    @classmethod
    def cat(cls, boxes_list: Sequence[Boxes]) -> Boxes:
        """Concatenate; an empty list gives no boxes."""
        if not isinstance(boxes_list, list | tuple) or not all(isinstance(b, Boxes) for b in boxes_list):
            raise AssertionError("Boxes.cat takes a list or tuple of Boxes")
        return cls(torch.cat([b.tensor for b in boxes_list])) if boxes_list else cls(torch.empty(0, 4))

    @property
    def device(self) -> torch.device:
        """Device of the tensor."""
        return self.tensor.device

    def __getitem__(self, item: int | slice | Tensor) -> Boxes:
        """An int gives one box as Boxes of length 1; a slice, mask or index tensor gives those boxes."""
        if isinstance(item, int):
            return Boxes(self.tensor[item].view(1, -1))
        picked = self.tensor[item]
        if picked.dim() != 2:
            raise AssertionError(f"indexing Boxes with {item} gives shape {tuple(picked.shape)}")
        return Boxes(picked)

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        yield from self.tensor

    def __repr__(self) -> str:
        return f"Boxes({self.tensor})"
