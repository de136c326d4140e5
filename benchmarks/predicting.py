#!/usr/bin/env python
"""What prediction costs by its options, what half precision changes, and what slices find on large images.

    python benchmarks/predicting.py speed configs/small.py FOLDER_OF_IMAGES [--before CHECKOUT] [--rounds 3]
    python benchmarks/predicting.py precision RUN VAL.json FOLDER_OF_IMAGES
    python benchmarks/predicting.py slices RUN VAL.json FOLDER_OF_IMAGES

`speed` runs `python -m detrex_ext predict` on a model of random weights, variants in turn, `--before` the command of
another checkout first. Time is the processor time of the process, which hardly depends on what runs beside it, of all
images less that of the first alone, so that starting is not in it; the least of the rounds is told.
`slices` puts twenty images at a time at random places of one large image.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch
from compare import ROOT
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate

import detrex_ext
from detrex_ext.cli.predict_files import find_images
from detrex_ext.config import LazyConfig, load_config
from detrex_ext.data.read import read_image
from detrex_ext.predicting.tiles import AUTO, Tiling
from detrex_ext.runtime import instantiate

OPTIONS = {
    "as it is": (), "batches of 8": ("--batch-size", "8"), "bf16": ("--precision", "bf16"),
    "bf16, batches of 8": ("--precision", "bf16", "--batch-size", "8"),
}  # fmt: skip


def checkpoint_of(config: str, path: Path) -> Path:
    """A checkpoint of random weights with its config."""
    torch.manual_seed(0)
    cfg = load_config(config, overrides=["model.num_classes=1"])
    data = {"model": instantiate(cfg.model).state_dict(), "class_names": ["object"], "config": LazyConfig.dumps(cfg)}
    torch.save(data, path)
    return path


def seconds_of(checkout: Path, model: Path, files: list[Path], output: Path, options: tuple[str, ...]) -> float:
    """Processor seconds of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "detrex_ext", "predict", model, *files, "--output", output, "--device", "cpu"]
    subprocess.run([*map(str, command), *options], check=True, stdout=subprocess.DEVNULL,
                   env={**os.environ, "PYTHONPATH": str(checkout)}, cwd=checkout)  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def speed(args: argparse.Namespace) -> str:
    """The table of variants."""
    files = [file.resolve() for file in find_images([args.images])]
    variants = {name: (ROOT, options) for name, options in OPTIONS.items()}
    if args.before:
        variants = {"before": (Path(args.before).resolve(), ()), **variants}
    taken: dict[str, list[float]] = {name: [] for name in variants}
    with tempfile.TemporaryDirectory() as folder:
        model = checkpoint_of(args.config, Path(folder) / "random.pth")
        for _ in range(args.rounds):
            for name, (checkout, options) in variants.items():
                all_of, first = (
                    seconds_of(checkout, model, some, Path(folder) / "out", options) for some in (files, files[:1])
                )
                taken[name].append(all_of - first)
    rows = [(name, min(each), (len(files) - 1) / min(each)) for name, each in taken.items()]
    return tabulate(rows, ("predict", "processor seconds", "images a processor second"), "pipe", floatfmt=".3g")


def precision(args: argparse.Namespace) -> str:
    """AP and scores of each precision."""
    with redirect_stdout(sys.stderr):
        truth = COCO(args.json)
    images = truth.loadImgs(truth.getImgIds())
    paths = [os.path.join(args.images, image["file_name"]) for image in images]
    rows, whole = [], None
    for name in ("fp32", "bf16", "fp16"):
        predictor = detrex_ext.load(args.run, device="cpu", precision=name)
        found = predictor.predict(paths, 0.0)
        whole = found if whole is None else whole
        far = max(float((a.scores[:20] - b.scores[:20]).abs().max()) for a, b in zip(found, whole, strict=True))
        rows.append((name, *ap_of(truth, images, found, predictor.category_ids), far))
    head = ("precision", "AP", "AP50", "largest difference of an image's 20 best scores")
    return tabulate(rows, head, "pipe", floatfmt=("", ".2f", ".2f", ".1e"))


def ap_of(truth: COCO, images: list[dict], found: list, ids: list[int], most: int = 100) -> tuple[float, float]:
    """AP and AP50 in percent, of the best so many detections of an image and class."""
    results = []
    for image, one in zip(images, found, strict=True):
        objects = zip(one.pred_boxes.tensor.tolist(), one.scores.tolist(), one.pred_classes.tolist(), strict=True)
        for (x1, y1, x2, y2), score, k in objects:
            box = [x1, y1, x2 - x1, y2 - y1]
            results.append({"image_id": image["id"], "category_id": ids[k], "bbox": box, "score": score})
    with redirect_stdout(sys.stderr):
        evaluation = COCOeval(truth, truth.loadRes(json.loads(json.dumps(results))), "bbox")
        evaluation.params.maxDets = [1, 10, most]
        evaluation.evaluate(), evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0, 2]
    return tuple(float(100 * some[some > -1].mean()) for some in (precision, precision[0]))


def large_images(truth: COCO, folder: str, rows: int = 4, columns: int = 5) -> tuple[list[np.ndarray], COCO]:
    """Images of rows x columns cells with an image of the set somewhere in each, and their ground truth."""
    images, rng = truth.loadImgs(truth.getImgIds()), np.random.default_rng(0)
    cell = max(max(image["height"], image["width"]) for image in images) * 7 // 6
    made, about, objects = [], [], []
    for start in range(0, len(images) - rows * columns + 1, rows * columns):
        large = np.full((rows * cell, columns * cell, 3), 127, np.uint8)
        about.append({"id": len(made) + 1, "width": columns * cell, "height": rows * cell})
        for k, image in enumerate(images[start : start + rows * columns]):
            small = read_image(os.path.join(folder, image["file_name"]))
            y, x = (int(at * cell + rng.integers(0, cell - side + 1))
                    for at, side in zip(divmod(k, columns), small.shape, strict=False))  # fmt: skip
            large[y : y + small.shape[0], x : x + small.shape[1]] = small
            for one in truth.loadAnns(truth.getAnnIds(image["id"])):
                left, top, *size = one["bbox"]
                moved = {"id": len(objects) + 1, "image_id": len(made) + 1, "bbox": [left + x, top + y, *size]}
                objects.append({**one, **moved})
        made.append(large)
    whole = COCO()
    whole.dataset = {"images": about, "annotations": objects, "categories": truth.dataset["categories"]}
    whole.createIndex()
    return made, whole


def slices(args: argparse.Namespace) -> str:
    """AP on large images, without slices and with some."""
    with redirect_stdout(sys.stderr):
        images, truth = large_images(COCO(args.json), args.images)
    predictor, about = detrex_ext.load(args.run, device="cpu"), truth.loadImgs(truth.getImgIds())
    side, rows = Tiling.of(AUTO, predictor.transforms).height, []
    of = {"none": None, **{f"{side}, overlap {by:.0%}": Tiling(side, side, by) for by in (0.1, 0.25, 0.5)}}
    for name, tile in {**of, f"{2 * side}, overlap 25%": Tiling(2 * side, 2 * side)}.items():
        began = time.process_time()
        found = predictor.predict(images, 0.02, 8, tile)
        seconds = (time.process_time() - began) / len(images)
        rows.append((name, *ap_of(truth, about, found, predictor.category_ids, 1000), seconds))
    head = ("slices", "AP", "AP50", "processor seconds an image")
    return tabulate(rows, head, "pipe", floatfmt=("", ".1f", ".1f", ".2f"))


def main() -> None:
    """Prints one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    suites = parser.add_subparsers(dest="suite", required=True)
    of_speed, of_precision, of_slices = (suites.add_parser(name) for name in ("speed", "precision", "slices"))
    of_speed.add_argument("config")
    of_speed.add_argument("images")
    of_speed.add_argument("--before", metavar="CHECKOUT")
    of_speed.add_argument("--rounds", type=int, default=3)
    for name in ("run", "json", "images"):
        of_precision.add_argument(name)
        of_slices.add_argument(name)
    args = parser.parse_args()
    print({"speed": speed, "precision": precision, "slices": slices}[args.suite](args))


if __name__ == "__main__":
    main()
