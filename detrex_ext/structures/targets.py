"""Ground truth of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from .placing import moved, placed
from .supervision import Pairs


@dataclass
class Targets:
    """Objects of B images. G is their total number; flat order is image-major.

    Attributes:
        labels: per image (n_b,) int64 contiguous class ids.
        boxes: per image (n_b, 4) float cxcywh, normalized by the unpadded image.
        image_hw_B2: float, height and width of each unpadded image in pixels.
        pairs: pairs fixed from outside (distillation), or None.
    """

    labels: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]
    image_hw_B2: Tensor
    pairs: Pairs | None = None

    @cached_property
    def counts(self) -> list[int]:
        """Objects per image."""
        return [len(x) for x in self.labels]

    @property
    def num(self) -> int:
        """G, objects of the batch."""
        return sum(self.counts)

    @cached_property
    def labels_G(self) -> Tensor:
        """(G,) class ids, flat."""
        return torch.cat(self.labels)

    @cached_property
    def boxes_G4(self) -> Tensor:
        """(G, 4) boxes, flat."""
        return torch.cat(self.boxes)

    @cached_property
    def image_G(self) -> Tensor:
        """(G,) image of each object."""
        images = [image for image, count in enumerate(self.counts) for _ in range(count)]
        return placed(images, self.labels[0], torch.int64)

    @cached_property
    def offsets_B(self) -> Tensor:
        """(B,) flat index of each image's first object."""
        return placed([0, *accumulate(self.counts)][:-1], self.labels[0], torch.int64)

    def to(self, device: torch.device | str) -> Targets:
        """The same targets on a device."""
        return Targets(
            tuple(x.to(device) for x in self.labels),
            tuple(x.to(device) for x in self.boxes),
            self.image_hw_B2.to(device),
            None if self.pairs is None else self.pairs.to(torch.device(device)),
        )

    @staticmethod
    def from_instances(instances: list[Any], device: torch.device | str) -> Targets:
        """Targets from detectron2's ``Instances`` with ``gt_boxes`` (n, 4) XYXY in pixels and ``gt_classes`` (n,)."""
        labels, boxes, sizes = [], [], []
        for item in instances:
            h, w = item.image_size
            xyxy = moved(item.gt_boxes.tensor, device)
            scale = placed([w, h, w, h], xyxy)
            x0, y0, x1, y1 = (xyxy / scale).unbind(-1)
            boxes.append(torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], -1))
            labels.append(moved(item.gt_classes, device))
            sizes.append([float(h), float(w)])
        made = Targets(tuple(labels), tuple(boxes), moved(torch.tensor(sizes), device))
        # all are asked for later; a compiled part finds them, and does not have to see how they are made
        _ = made.counts, made.labels_G, made.boxes_G4, made.image_G, made.offsets_B
        return made
