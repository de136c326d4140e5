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
        return Boxes(self.tensor.clone())

    def to(self, *args: Any, **kwargs: Any) -> Boxes:
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

    def inside_box(self, box_size: tuple[int, int], boundary_threshold: int = 0) -> Tensor:
        """Mask (N,) of boxes inside an image of `(height, width)`, up to a margin in pixels."""
        height, width = box_size
        t = boundary_threshold
        x0, y0, x1, y1 = self.tensor.unbind(1)
        return (x0 >= -t) & (y0 >= -t) & (x1 < width + t) & (y1 < height + t)

    def get_centers(self) -> Tensor:
        """Centres (x, y), shape (N, 2)."""
        return (self.tensor[:, :2] + self.tensor[:, 2:]) / 2

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Scale in place."""
        self.tensor[:, 0::2] *= scale_x
        self.tensor[:, 1::2] *= scale_y

    @classmethod
    def cat(cls, boxes_list: Sequence[Boxes]) -> Boxes:
        """Concatenate; an empty list gives no boxes."""
        if not isinstance(boxes_list, list | tuple) or not all(isinstance(b, Boxes) for b in boxes_list):
            raise AssertionError("Boxes.cat takes a list or tuple of Boxes")
        return cls(torch.cat([b.tensor for b in boxes_list])) if boxes_list else cls(torch.empty(0, 4))

    @property
    def device(self) -> torch.device:
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


def pairwise_intersection(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """Intersection areas (N, M) in square pixels."""
    a, b = boxes1.tensor[:, None], boxes2.tensor[None]
    wh = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    return wh.prod(dim=-1)


def pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """Intersection over union (N, M); 0 where nothing overlaps."""
    inter = pairwise_intersection(boxes1, boxes2)
    union = boxes1.area()[:, None] + boxes2.area()[None] - inter
    return torch.where(inter > 0, inter / union, torch.zeros_like(inter))
