"""Axis-aligned boxes in absolute pixels, with detectron2's names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


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
        x, y = self.tensor[:, 0::2].clamp(min=0, max=width), self.tensor[:, 1::2].clamp(min=0, max=height)
        self.tensor = torch.stack((x[:, 0], y[:, 0], x[:, 1], y[:, 1]), dim=1)

    def nonempty(self, threshold: float = 0.0) -> Tensor:
        """Mask (N,) of boxes wider and higher than `threshold`."""
        return ((self.tensor[:, 2:] - self.tensor[:, :2]) > threshold).all(dim=1)

    def inside_box(self, box_size: tuple[int, int], boundary_threshold: int = 0) -> Tensor:
        """Mask (N,) of boxes that leave an image of `(height, width)` by no more than some pixels."""
        height, width = box_size
        left, top, right, bottom = self.tensor.unbind(dim=1)
        low, beyond = -boundary_threshold, boundary_threshold
        return (left >= low) & (top >= low) & (right < width + beyond) & (bottom < height + beyond)

    def get_centers(self) -> Tensor:
        """Centers (x, y), shape (N, 2)."""
        return (self.tensor[:, :2] + self.tensor[:, 2:]) / 2

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Multiply x and y in place."""
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


def pairwise_intersection(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """Areas (N, M) in square pixels that each of N boxes shares with each of M."""
    one, two = boxes1.tensor[:, None], boxes2.tensor[None]
    shared = torch.minimum(one[..., 2:], two[..., 2:]) - torch.maximum(one[..., :2], two[..., :2])
    return shared.clamp(min=0).prod(dim=2)


def pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """Intersection over union (N, M) of each of N boxes with each of M; 0 where they do not meet."""
    shared = pairwise_intersection(boxes1, boxes2)
    return _share(shared, boxes1.area()[:, None] + boxes2.area() - shared)


def pairwise_ioa(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """Intersection over the area of the second (N, M); 0 where they do not meet."""
    shared = pairwise_intersection(boxes1, boxes2)
    return _share(shared, boxes2.area().expand_as(shared))


def matched_pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """Intersection over union (N,) of each box with the one of the same place in the other."""
    if len(boxes1) != len(boxes2):
        raise AssertionError(f"boxes in pairs: there are {len(boxes1)} and {len(boxes2)}")
    one, two = boxes1.tensor, boxes2.tensor
    shared = torch.minimum(one[:, 2:], two[:, 2:]) - torch.maximum(one[:, :2], two[:, :2])
    shared = shared.clamp(min=0).prod(dim=1)
    return _share(shared, boxes1.area() + boxes2.area() - shared)


def _share(shared: Tensor, of: Tensor) -> Tensor:
    """`shared / of`; 0 where nothing is shared, whatever the areas."""
    return torch.where(shared > 0, shared / of, 0.0)
