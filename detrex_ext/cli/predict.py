"""`python -m detrex_ext predict`: boxes drawn on images, and one JSON of them."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from detrex_ext.errors import UserError

from . import data_folder
from .arguments import Parser, add_weights
from .outputs import make_folder
from .predict_files import find_images, output_of, targets_of

if TYPE_CHECKING:
    from detrex_ext.data.image_like import Examined
    from detrex_ext.predictor import Predictor

    from .predict_truth import Truth

RESULTS = "predictions.json"


def build_parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    parser = Parser(
        prog="python -m detrex_ext predict",
        description="Find objects on images: a drawn image of each, and predictions.json with all boxes.",
    )
    parser.add_argument("model", metavar="RUN_OR_CHECKPOINT", help="run folder of train_net.py, or a .pth file")
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="image, folder, or glob in quotes")
    data_folder.add_data(parser, "predict on the validation images, with their boxes beside, of")
    parser.add_argument("--output", metavar="DIR", help="folder to write to (default: predictions/ in the run)")
    parser.add_argument(
        "--threshold",
        type=_threshold,
        metavar="T",
        help="least score shown: a number, or 'per-class' for each class's own (default: the one with the best F1 in "
        "the evaluation of the checkpoint's training, 0.5 where it holds none)",
    )
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1 (default: the GPU if there is one)")
    parser.add_argument("--ground-truth", metavar="JSON", help="COCO file; its boxes are drawn beside the predictions")
    parser.add_argument(
        "--batch-size", type=int, default=1, metavar="N", help="images of one size at a time (default 1)"
    )
    _add_speed(parser)
    add_weights(parser)
    return parser


def _add_speed(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("speed")
    group.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        default="fp32",
        help="of matrix products: fp32 (default) finds what the evaluation found; auto is bf16 where this machine "
        "multiplies it natively",
    )
    group.add_argument("--compile", action="store_true", help="let torch compile the model first, which takes minutes")
    group.add_argument("--cuda-graphs", action="store_true", help="on a GPU: record the kernels of each size of batch")


def main(argv: list[str] | None = None) -> int:
    """Predict on every image; those that cannot be read are named at the end.

    Returns:
        0.

    Raises:
        UserError: no images, no model, an image that cannot be decoded (after the others are done).
    """
    args = build_parser().parse_args(argv)
    if isinstance(args.threshold, float) and not 0 <= args.threshold <= 1:
        raise UserError(f"--threshold {args.threshold} must lie in [0, 1]")
    if args.batch_size < 1:
        raise UserError(f"--batch-size {args.batch_size}: expected 1 or more")
    output = output_of(args.output, args.model)
    with tempfile.TemporaryDirectory() as folder:
        return _run(args, output, *_files(args, folder))


def _files(args: argparse.Namespace, folder: str) -> tuple[list[Path], str | None]:
    """The images, and the annotation file with their boxes, if there is one."""
    if args.data is None:
        if not args.inputs:
            raise UserError("predict: name images, a folder of them, or a data set by --data DIR")
        return find_images(args.inputs), args.ground_truth
    if args.inputs or args.ground_truth:
        raise UserError("--data names the images and their boxes: without INPUT and --ground-truth")
    run = args.model if os.path.isdir(args.model) else os.path.dirname(args.model)
    json, images = data_folder.prepare(args, folder, run).of("val")
    from detrex_ext.data.ground_truth import read_ground_truth

    named = [image["file_name"] for image in read_ground_truth(json, sound=True).images]
    return [Path(images) / name for name in named], json


def _run(args: argparse.Namespace, output: Path, files: list[Path], ground_truth: str | None) -> int:
    targets = targets_of(files, output)

    from detrex_ext.api import load
    from detrex_ext.checkpoint.files import write_json
    from detrex_ext.runtime import machine

    from .predict_truth import Truth

    machine.fit_threads()
    truth = Truth(ground_truth, files) if ground_truth else None
    source, weights = (args.config_file, args.model) if args.config_file else (args.model, None)
    how = {"device": args.device, "average": False if args.no_average else None, "trust": args.trust}
    how |= {"precision": args.precision, "compile": args.compile, "cuda_graphs": args.cuda_graphs}
    predictor = load(source, weights=weights, **how)
    print(f"weights: {predictor.weights}")
    if args.precision != "fp32":
        print(f"precision: {predictor.precision} ({predictor.precision_reason})")
    shown, origin = _shown(predictor, args.threshold)
    print(f"threshold: {shown} ({origin})")
    make_folder(output)
    began = time.perf_counter()
    rows, failed = _predict(predictor, files, targets, args, truth)
    seconds = time.perf_counter() - began
    if rows:
        write_json(rows, output / RESULTS)
        objects = _number(sum(len(row["boxes"]) for row in rows), "object")
        found = f"{objects} with score >= {shown} on {_number(len(rows), 'image')}"
        print(f"{found}, drawn in {output}; all in {output / RESULTS}")
        print(f"{seconds:.1f} s, {len(rows) / seconds:.3g} images/s: read, found, drawn and saved")
    if failed:
        shown = "\n".join(f"  {reason}" for reason in failed[:10])
        more = f"\n  ... and {len(failed) - 10} more" if len(failed) > 10 else ""
        others = "; the others are done" if rows else ", so nothing is written"
        raise UserError(f"{len(failed)} of {_number(len(files), 'image')} cannot be used{others}\n{shown}{more}")
    return 0


def _threshold(text: str) -> float | str:
    return text if text == "per-class" else float(text)


def _shown(predictor: Predictor, asked: float | str | None) -> tuple[str, str]:
    """The threshold in force, and where it is from."""
    own = predictor.threshold
    if isinstance(asked, float):
        return str(asked), "--threshold"
    if asked is None:
        return f"{own.score:.4g}", own.origin
    each = zip(predictor.class_names, own.of(predictor.class_names), strict=True)
    listed = [f"{name} {score:.3g}" for name, score in each]
    return ", ".join(listed[:8]) + (", ..." if len(listed) > 8 else ""), own.origin


def _number(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _predict(
    predictor: Predictor, files: list[Path], targets: list[Path], args: argparse.Namespace, truth: Truth | None
) -> tuple[list[dict], list[str]]:
    from detrex_ext.data.ahead import ahead
    from detrex_ext.data.read import UnreadableImage

    from .predict_truth import draw, row_of

    def finish(item: tuple[Path, Path, Examined]) -> dict | UnreadableImage:
        file, target, seen = item
        if isinstance(seen.error, UnreadableImage):
            return seen.error
        if seen.error is not None:
            raise seen.error
        draw(seen.rgb, seen.instances, predictor.class_names, truth, file).save(target)
        return row_of(file, seen.instances, predictor.class_names)

    examined = predictor.examine(files, args.threshold, args.batch_size)
    # drawn and saved while the model is busy with the next ones
    found = list(ahead(zip(files, targets, examined, strict=True), finish, predictor.threads, predictor.threads))
    lines = [str(error).splitlines() for error in found if isinstance(error, UnreadableImage)]
    failed = ["; ".join(line.strip(" ;") for line in of_one if line.strip(" ;")) for of_one in lines]
    return [row for row in found if isinstance(row, dict)], failed
