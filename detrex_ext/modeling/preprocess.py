"""Images of different sizes to one normalized, padded batch.

Shape legend: B images, H, W size of the batch; "hw" is (height, width) in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detrex_ext.structures.placing import moved, placed


@dataclass
class Images:
    """A batch of images, padded with zeros to the right and below.

    Attributes:
        images_B3HW: normalized.
        valid_hw_B2: float, the part of the batch that masks treat as image.
        image_hw_B2: float, true size of each image before padding.
    """

    images_B3HW: Tensor
    valid_hw_B2: Tensor
    image_hw_B2: Tensor


class Preprocess(nn.Module):
    """Normalization, then zero-padding to the size of the largest image of the batch.

    Args:
        pixel_mean, pixel_std: per channel, of RGB in 0..255. Buffers outside the state dict.
        parity_padding: in evaluation call the padding image too, as detrex does; in training it makes no difference.
        channels_last: memory format of the batch; None = on a CPU, where pooling and 1x1 convolutions are then faster.
        size_divisor: round the size of the batch up to a multiple of it.
        bgr: hand channels on in the order blue, green, red, which weights of Caffe's time want; images, ``pixel_mean``
            and ``pixel_std`` stay in RGB.
    """

    def __init__(
        self,
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
        pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
        parity_padding: bool = False,
        channels_last: bool | None = None,
        size_divisor: int = 1,
        bgr: bool = False,
    ) -> None:
        super().__init__()
        self.register_buffer("pixel_mean", torch.tensor(tuple(pixel_mean))[:, None, None], persistent=False)
        self.register_buffer("pixel_std", torch.tensor(tuple(pixel_std))[:, None, None], persistent=False)
        self.parity_padding = parity_padding
        self.channels_last = channels_last
        self.size_divisor, self.bgr = size_divisor, bgr

    def forward(self, batched_inputs: Sequence[Mapping[str, Any]], device: torch.device | str | None = None) -> Images:
        """A batch from detectron2's input dicts.

        Args:
            batched_inputs: each with ``image``, (3, h, w), RGB in 0..255, any dtype.
            device: where to; None = where the buffers are.

        Raises:
            ValueError: no images, or one that is not (3, h, w).
        """
        device = self.pixel_mean.device if device is None else torch.device(device)
        images = [item["image"] for item in batched_inputs]
        channels = len(self.pixel_mean)
        if not images:
            raise ValueError("a batch without images")
        for i, x in enumerate(images):
            if x.ndim != 3 or x.shape[0] != channels or 0 in x.shape:
                raise ValueError(f"image {i} of the batch has shape {tuple(x.shape)}, expected ({channels}, h, w)")
        sizes = [tuple(x.shape[1:]) for x in images]
        height, width = (-(-max(side) // self.size_divisor) * self.size_divisor for side in zip(*sizes, strict=True))
        last = device.type == "cpu" if self.channels_last is None else self.channels_last
        mean, std = self.pixel_mean.to(device), self.pixel_std.to(device)
        batch = torch.empty(
            (len(images), channels, height, width),
            dtype=mean.dtype,
            device=device,
            memory_format=torch.channels_last if last else torch.contiguous_format,
        ).zero_()
        for out, x, (h, w) in zip(batch, images, sizes, strict=True):
            view = out[:, :h, :w]
            view.copy_(moved(x, device)).sub_(mean).div_(std)
            if self.bgr:
                view.copy_(view.flip(0))
        image_hw_B2 = placed(sizes, mean)
        valid_hw_B2 = image_hw_B2
        if self.parity_padding and not self.training:
            valid_hw_B2 = placed([[height, width]], mean).expand(len(sizes), 2)
        return Images(batch, valid_hw_B2, image_hw_B2)
