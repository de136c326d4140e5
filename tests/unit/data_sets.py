"""Small COCO data sets on disk, for the tests of `detrex_ext.data`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

BCCD = Path(__file__).resolve().parents[3] / "shared" / "data" / "bccd"


def coco(num_images: int = 4, num_classes: int = 2, size: tuple[int, int] = (40, 60)) -> dict:
    """A faultless annotation file: one box per image, ids with gaps, categories out of order; size is (h, w)."""
    height, width = size
    ids = [10 * (k + 1) for k in range(num_classes)]
    images = [{"id": 5 + i, "file_name": f"{i}.png", "height": height, "width": width} for i in range(num_images)]
    annotations = [
        {"id": 100 + i, "image_id": 5 + i, "category_id": ids[i % num_classes], "bbox": [4, 6, 20, 10],
         "area": 200, "iscrowd": 0}
        for i in range(num_images)
    ]  # fmt: skip
    categories = [{"id": i, "name": f"class{i}"} for i in reversed(ids)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write(root: Path, data: dict, images: bool = True, name: str = "set.json") -> Path:
    """Write `data` and a random image for each of its images; returns the JSON's path."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    if images:
        for image in data["images"]:
            pixels = rng.integers(0, 256, size=(image["height"], image["width"], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "images" / image["file_name"])
    path = root / name
    path.write_text(json.dumps(data))
    return path
