"""From an image of any size to one frame, in a graph of tensors: what Pillow and the evaluation's transforms do.

Shape legend: B images, (h, w) size of the original images, (H, W) of the frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from detrex_ext.data.transforms import Resize, ResizeShortestEdge
from detrex_ext.errors import UserError

_MULTIPLE = 32  # of the frame's sides, where they are chosen: the coarsest stride of a usual backbone


@dataclass(frozen=True)
class Fitting:
    """How an image comes to lie in the upper left of the frame.

    Attributes:
        frame: (height, width), in pixels, of what the model sees.
        short, longest: length of the short side, and most of the long one, as in ``ResizeShortestEdge``; None = the
            image is stretched over ``shape``.
        shape: see ``short``.
    """

    frame: tuple[int, int]
    short: int | None = None
    longest: int | None = None
    shape: tuple[int, int] | None = None

    @staticmethod
    def of(transforms: Sequence[Any], frame: tuple[int, int] | None = None, divisor: int = 1) -> Fitting:
        """The fitting that answers the transforms of an evaluation.

        Args:
            transforms: of the evaluation.
            frame: None = the least one that holds every image after them.
            divisor: of its sides, as the model wants them.

        Raises:
            UserError: transforms that have no counterpart in a graph, or no frame that would hold all images.
        """
        kind, unit = transforms[0] if len(transforms) == 1 else None, math.lcm(_MULTIPLE, divisor)
        if frame is not None and (frame[0] % divisor or frame[1] % divisor):
            raise UserError(f"--size {frame[0]}x{frame[1]}: this model wants multiples of {divisor}")
        if isinstance(kind, Resize):
            shape = kind.shape
            if frame is not None and (frame[0] < shape[0] or frame[1] < shape[1]):
                raise UserError(f"--size {frame[0]}x{frame[1]}: the run's images are {shape[0]}x{shape[1]}, no smaller")
            whole = tuple(-(-side // divisor) * divisor for side in shape)
            return Fitting(frame or whole, shape=shape)
        if not isinstance(kind, ResizeShortestEdge) or not kind.fixed:
            names = ", ".join(type(transform).__name__ for transform in transforms) or "nothing"
            raise UserError(
                f"dataloader.test.mapper.augmentation is {names}: an exported graph knows one ResizeShortestEdge of a "
                "fixed length, or one Resize"
            )
        short, longest = kind.lengths[0], None if kind.max_size == float("inf") else int(kind.max_size)
        if frame is None and longest is None:
            raise UserError("the evaluation has no longest side (max_size), so no frame holds every image: --size HxW")
        if frame is None:
            frame = (-(-longest // unit) * unit,) * 2
        return Fitting(frame, short, longest)

    def new_size(self, h: Any, w: Any) -> tuple[Tensor, Tensor]:
        """int64 height and width () that an image is resized to; whole numbers only, so that every runtime agrees."""
        h, w = (torch.scalar_tensor(n, dtype=torch.int64) for n in (h, w))
        if self.shape is not None:
            return torch.full_like(h, self.shape[0]), torch.full_like(w, self.shape[1])
        near, far = torch.minimum(h, w), torch.maximum(h, w)
        up, down = torch.full_like(h, self.short), near  # the scale, as a fraction
        for limit, side in ((self.longest, far), (self.frame[0], h), (self.frame[1], w)):
            if limit is not None:
                over = up * side > limit * down
                up, down = torch.where(over, limit, up), torch.where(over, side, down)
        sizes = ((2 * up * side + down) // (2 * down) for side in (h, w))
        return tuple(size.clamp(1, most) for size, most in zip(sizes, self.frame, strict=True))

    def __call__(self, images_BhwC: Tensor) -> tuple[Tensor, Tensor]:
        """Resized images (B, C, H, W), whole numbers in 0..255, zero outside, and their size (2,) in the frame."""
        h, w = images_BhwC.shape[1:3]
        new_h, new_w = self.new_size(h, w)
        x = images_BhwC.permute(0, 3, 1, 2).to(torch.float32)
        # Pillow's order, and its rounding after each of the two
        x = _rounded(x @ resampling(w, new_w, self.frame[1]).T)
        x = _rounded(resampling(h, new_h, self.frame[0]) @ x)
        return x, torch.stack([new_h, new_w]).to(torch.float32)


def resampling(old: Any, new: Tensor, most: int) -> Tensor:
    """(``most``, ``old``) weights of Pillow's anti-aliased bilinear filter along one side; rows from ``new`` on are 0.

    Args:
        old: pixels of the side.
        new: int64 (), pixels that it gets.
        most: pixels of the frame's side.
    """
    scale = torch.scalar_tensor(old, dtype=torch.float32) / new
    reach = scale.clamp(min=1.0)
    row, column = torch.arange(most, dtype=torch.float32)[:, None], torch.arange(old, dtype=torch.float32)[None]
    weight = (1 - ((column + 0.5) - (row + 0.5) * scale).abs() / reach).clamp(min=0.0)
    weight = weight / weight.sum(1, keepdim=True).clamp(min=1e-6)
    return weight * (row < new)


def _rounded(x: Tensor) -> Tensor:
    # halves are frequent: they go up, as Pillow's, and not by the last bit of a runtime's sum
    return (x + (0.5 + 2**-10)).floor().clamp(0.0, 255.0)
