"""Images to run a model on."""

from __future__ import annotations

from typing import Any

import torch

from detrex_ext.runtime import Boxes, Instances


def example_batch(
    num_classes: int, objects: tuple[int, ...] = (3, 0), size: tuple[int, int] = (64, 96), seed: int = 0
) -> list[dict[str, Any]]:
    """Images of noise with random objects, in detectron2's layout; every second one is a little smaller.

    Args:
        num_classes: K.
        objects: number of objects of each image.
        size: (height, width) of the first.
        seed: of everything.
    """
    g = torch.Generator().manual_seed(seed)
    batch = []
    for i, n in enumerate(objects):
        h, w = size[0] - 8 * (i % 2), size[1] - 16 * (i % 2)
        corner = torch.rand(n, 2, generator=g) * torch.tensor([w, h]) * 0.6
        side = (0.1 + 0.25 * torch.rand(n, 2, generator=g)) * torch.tensor([w, h])
        instances = Instances((h, w))
        instances.gt_boxes = Boxes(torch.cat([corner, corner + side], 1))
        instances.gt_classes = torch.randint(0, num_classes, (n,), generator=g)
        image = torch.randint(0, 256, (3, h, w), generator=g, dtype=torch.uint8)
        batch.append({"image": image, "instances": instances, "height": h, "width": w})
    return batch
