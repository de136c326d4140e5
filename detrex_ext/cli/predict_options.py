"""The flags of `predict`."""

from __future__ import annotations

import argparse
import math

from detrex_ext.errors import UserError

from . import data_folder
from .arguments import Parser, add_weights, names

FORMATS = {"json": "predictions.json", "coco": "coco.json", "yolo": "data.yaml", "csv": "predictions.csv"}
"""What each is written to, beside what it has of each image or video."""


def build_parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    parser = Parser(
        prog="python -m detrex_ext predict",
        description="Find objects on images and videos: each drawn, and predictions.json with all boxes.",
    )
    parser.add_argument("model", metavar="RUN_OR_CHECKPOINT", help="run folder of train_net.py, or a .pth file")
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="image, video, folder, or glob in quotes")
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
    _add_output(parser)
    _add_video(parser)
    add_weights(parser)
    return parser


def _add_output(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what is written").add_argument
    add("--format", action="extend", type=names, metavar="A,B", help=f"of {', '.join(FORMATS)}; default json")
    add("--crops", action="store_true", help="an image of each object, in a folder of its class")
    add("--no-draw", action="store_true", help="no drawn images and videos")


def _add_video(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("video").add_argument
    add("--webcam", type=_natural, metavar="N", help="frames of camera N (0 is the first) until Ctrl-C, no INPUT")
    add("--fps", type=float, metavar="F", help="the images of a folder are frames of a video, F a second")
    add("--every", type=_natural, metavar="N", help="only each Nth frame")
    add("--max-frames", type=_natural, metavar="N", help="so many frames of each video at most")
    add = parser.add_argument_group("large images with small objects").add_argument
    add("--tile", metavar="PIXELS", help="look at overlapping slices of this side too; auto: as the model's images are")
    add("--tile-overlap", type=float, default=0.25, metavar="F", help="of a slice's side (default 0.25)")


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


def check(args: argparse.Namespace) -> None:
    """Refuses values and flags that do not go together.

    Raises:
        UserError: names the flag.
    """
    if isinstance(args.threshold, float) and not 0 <= args.threshold <= 1:
        raise UserError(f"--threshold {args.threshold} must lie in [0, 1]")
    if args.batch_size < 1:
        raise UserError(f"--batch-size {args.batch_size}: expected 1 or more")
    for name in args.format or ():
        if name not in FORMATS:
            raise UserError(f"--format {name}: expected some of {', '.join(FORMATS)}, as --format coco,csv")
    if args.fps is not None and not (math.isfinite(args.fps) and 0.01 <= args.fps <= 1000):
        raise UserError(f"--fps {args.fps}: expected frames a second, from 0.01 to 1000")
    for name in ("every", "max_frames"):
        if getattr(args, name) == 0:
            raise UserError(f"--{name.replace('_', '-')} 0: expected 1 or more")
    if args.webcam is not None and (args.inputs or args.data or args.fps is not None):
        raise UserError("--webcam names what is looked at: without INPUT, --data and --fps")
    if args.ground_truth and (args.webcam is not None or args.fps is not None):
        raise UserError("--ground-truth is of images: without --webcam and --fps")


def _threshold(text: str) -> float | str:
    return text if text == "per-class" else float(text)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number from 0 on, found '{text}'")
    return int(text)
