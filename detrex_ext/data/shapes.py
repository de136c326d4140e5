"""The generated "shapes" data set: a small detection task in COCO format, for trying things without data.

Circles, rectangles, triangles and five-point stars, filled or outlined, turned and overlapping, on noisy backgrounds
with distractor lines and arcs. `--hard`: twenty classes in crowds, that cover each other and are cut off.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from detrex_ext.data import draw_shapes as draw
from detrex_ext.data import hard_shapes
from detrex_ext.data.draw_shapes import CLASSES
from detrex_ext.errors import UserError

# Sizes in pixels are those of a 128 x 128 image and grow with it.
_BASE = 128.0
_RADIUS = (6.0, 32.0)
_STROKE = (1.5, 3.5)
_MAX_OBJECTS = 8
_MAX_OVERLAP = 0.35
_FILLED = 0.6
_TRIES = 40
_SPLITS = ("train", "val")
# Separates the images of the hard set from those of the plain one.
_HARD_STREAM = 0x4A5D


def write(
    root: str | Path, num_train: int = 600, num_val: int = 100, size: int = 128, seed: int = 0, hard: bool = False
) -> Path:
    """Write `root/images/*.png`, `root/train.json` and `root/val.json`.

    Image i of a split depends on (seed, split, i, size, hard) only, so a larger set begins with the smaller one. Equal
    arguments give equal bytes with the same versions of numpy and Pillow (another zlib may pack equal pixels
    differently). A complete set of the same arguments is left as it is.

    Args:
        root: folder, made if absent.
        num_train: images of the training split, at least 1.
        num_val: images of the validation split, at least 1.
        size: side of the square images, in pixels; at least 48.
        seed: not negative.
        hard: the harder set.

    Returns:
        `root` as a Path.

    Raises:
        UserError: an argument makes no sense, or `root` holds another data set.
    """
    if size < 48 or seed < 0 or num_train < 1 or num_val < 1:
        raise UserError(f"shapes: num_train={num_train}, num_val={num_val}, size={size}, seed={seed}\n"
                        "  expected at least one image per split, size >= 48, seed >= 0")  # fmt: skip
    root = Path(root)
    parameters = {"num_train": num_train, "num_val": num_val, "size": size, "seed": seed}
    parameters |= {"hard": True} if hard else {}
    if _already_there(root, parameters):
        return root
    (root / "images").mkdir(parents=True, exist_ok=True)
    documents = [_split(root, which, parameters) for which in range(len(_SPLITS))]
    # The JSON files last, train.json last of all: a set that was cut off is written anew.
    for split, document in reversed(list(zip(_SPLITS, documents, strict=True))):
        (root / f"{split}.json").write_text(json.dumps(document, indent=None, sort_keys=True) + "\n", encoding="utf-8")
    return root


def _already_there(root: Path, parameters: dict) -> bool:
    path = root / "train.json"
    if not path.exists():
        return False
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["info"]["shapes"]
    except (ValueError, KeyError, TypeError):
        found = None
    if found == parameters:
        return True
    what = "a data set that is not the generated shapes" if found is None else f"shapes of {found}"
    raise UserError(f"{path} exists: {what}\n  asked for {parameters}; nothing was overwritten: "
                    "choose another folder or delete this one")  # fmt: skip


def _split(root: Path, which: int, parameters: dict) -> dict:
    split, size = _SPLITS[which], parameters["size"]
    hard, images, annotations = parameters.get("hard", False), [], []
    for index in range(parameters[f"num_{split}"]):
        words = (parameters["seed"], which, index, size, *([_HARD_STREAM] if hard else []))
        image, objects = (hard_shapes.one_image if hard else one_image)(np.random.default_rng(words), size)
        name = f"{split}_{index:05d}.png"
        Image.fromarray(image).save(root / "images" / name, compress_level=6)
        images.append({"id": index + 1, "file_name": name, "width": size, "height": size})
        for category_id, box in objects:
            ids = {"id": len(annotations) + 1, "image_id": index + 1, "category_id": category_id}
            annotations.append({**ids, "bbox": box, "area": round(box[2] * box[3], 2), "iscrowd": 0})
    return {
        "info": {"description": "generated shapes", "shapes": parameters},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(hard_shapes.CLASSES if hard else CLASSES)],
    }


def one_image(rng: np.random.Generator, size: int) -> tuple[np.ndarray, list[tuple[int, list[float]]]]:
    """One image and its objects.

    Returns:
        (size, size, 3) uint8, and (category id from 1, [x, y, width, height] in pixels) per object.
    """
    scale = size / _BASE
    image = draw.background(rng, size)
    draw.distract(image, rng, scale)
    objects: list[tuple[int, list[float]]] = []
    taken: list[tuple[float, float, float, float]] = []
    for _ in range(int(rng.integers(1, _MAX_OBJECTS + 1))):
        placed = _place(rng, size, scale, taken)
        if placed is None:
            continue
        kind, center, radius, points, box = placed
        under = image[int(box[1]) : math.ceil(box[3]), int(box[0]) : math.ceil(box[2])]
        color = draw.contrasting(rng, under.mean(axis=(0, 1)))
        stroke = None if rng.random() < _FILLED else min(rng.uniform(*_STROKE) * scale, radius / 2)
        draw.draw_shape(image, center, radius, points, color, stroke)
        taken.append(box)
        xywh = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
        objects.append((CLASSES.index(kind) + 1, [round(v, 2) for v in xywh]))
    return draw.finished(image, rng), objects


def _place(rng: np.random.Generator, size: int, scale: float, taken: list) -> tuple | None:
    """A shape that fits the image and covers no other too much; None after some tries."""
    kind = CLASSES[int(rng.integers(len(CLASSES)))]
    for _ in range(_TRIES):
        radius = math.exp(rng.uniform(math.log(_RADIUS[0]), math.log(_RADIUS[1]))) * scale
        points = draw.outline_points(kind, radius, rng.uniform(0, 2 * math.pi), rng.uniform(0.5, 1.0))
        x0, y0, x1, y1 = draw.bounds(points, radius)
        cx, cy = rng.uniform(-x0, size - x1), rng.uniform(-y0, size - y1)
        box = (cx + x0, cy + y0, cx + x1, cy + y1)
        if all(_overlap(box, other) <= _MAX_OVERLAP for other in taken):
            return kind, (cx, cy), radius, points, box
    return None


def _overlap(a: tuple, b: tuple) -> float:
    """Intersection over the smaller box."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))


def main(argv: list[str] | None = None) -> int:
    """Write the data set from the command line."""
    parser = argparse.ArgumentParser(prog="python -m detrex_ext.data.shapes", description=write.__doc__.split("\n")[0])
    parser.add_argument("root", metavar="DIR", help="folder to write to, made if absent")
    texts = ("images of the training split", "images of the validation split", "side of the images in pixels, from 48",
             "of the random numbers")  # fmt: skip
    names = ("--num-train", "--num-val", "--size", "--seed")
    for name, text, default in zip(names, texts, write.__defaults__[:4], strict=True):
        parser.add_argument(name, type=int, default=default, metavar="N", help=f"{text} (default {default})")
    parser.add_argument("--hard", action="store_true", help="twenty classes, crowds, hidden and cut off shapes")
    try:
        print(write(**vars(parser.parse_args(argv))))
    except (UserError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
