"""`python -m detrex_ext export`: a trained model as one file for other runtimes, compared with it on images."""

from __future__ import annotations

import argparse
import math
import os
import re
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from detrex_ext.errors import UserError

from .arguments import Parser, add_weights
from .export_data import data_of, folder_of, records_of, to_calibrate
from .outputs import check_file, in_run

if TYPE_CHECKING:
    from detrex_ext.export.compare import Comparison
    from detrex_ext.export.graph import Graph
    from detrex_ext.predictor import Predictor

EPILOG = """\
examples:
  an ONNX file that takes images as they are, any number of them and of any size, in the run folder:
    python -m detrex_ext export output/run
  one of 8 bits beside it, for a CPU:
    python -m detrex_ext export output/run --int8
  for a runtime without GridSample, with resizing and normalization outside, of a smaller frame:
    python -m detrex_ext export output/run --no-grid-sample --preprocessing outside --size 480x640
  torch's own format:
    python -m detrex_ext export output/run --format pt2
"""
_LOSS, _LOSS_INT8, _SCORE = 0.1, 1.0, 0.01


def build_parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    parser = Parser(
        prog="python -m detrex_ext export",
        description="Write a trained model as one file for other runtimes, and compare it with the model on images: "
        "exit code 1 where it finds something else.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", metavar="RUN_OR_CHECKPOINT", help="run folder of train_net.py, or a .pth file")
    add("--format", choices=("onnx", "pt2"), default="onnx", help="ONNX, or torch's exported program (default onnx)")
    add("--output", metavar="FILE", help="file to write (default: model.onnx or model.pt2 in the run)")
    add("--preprocessing", choices=("inside", "outside"), default="inside",
        help="inside: the file takes uint8 RGB images of any size; outside: normalized, padded frames and the sizes of "
        "the images in them (default inside)")  # fmt: skip
    add("--size", metavar="HxW", help="frame that the model sees (default: what the run's evaluation never exceeds)")
    add("--no-grid-sample", action="store_true", help="for runtimes without GridSample: more and slower operators")
    add("--opset", type=int, default=None, metavar="N", help="of ONNX, from 18 on (default 18)")
    add("--int8", action="store_true", help="a second ONNX file, of 8 bits, named model_int8.onnx")
    add("--json", metavar="JSON", help="COCO file to compare AP on (default: the run's validation data)")
    add("--images", metavar="DIR", help="its images (default: beside it, or the run's)")
    add("--count", type=int, default=100, metavar="N", help="compare on the first N images, 0: on none (default 100)")
    add("--tolerance", type=float, metavar="AP",
        help=f"largest difference of AP (default {_LOSS}, and {_LOSS_INT8:g} for 8 bits)")  # fmt: skip
    add_weights(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Export and compare.

    Returns:
        0; 1 where a file differs by more than is allowed.

    Raises:
        UserError: no model, one that cannot be exported, or data that cannot be read.
    """
    args = build_parser().parse_args(argv)
    target, size = _checked(args)

    from detrex_ext.api import load
    from detrex_ext.export import files
    from detrex_ext.export.about import about
    from detrex_ext.export.fitting import Fitting
    from detrex_ext.export.graph import FromFrames, FromPixels
    from detrex_ext.runtime import machine

    files.need(args.format)
    machine.fit_threads()
    source, weights = (args.config_file, args.model) if args.config_file else (args.model, None)
    average = False if args.no_average else None
    predictor = load(source, weights=weights, device="cpu", average=average, trust=args.trust)
    print(f"weights: {predictor.weights}")
    divisor = getattr(getattr(predictor.model, "preprocess", None), "size_divisor", 1)
    kind = FromPixels if args.preprocessing == "inside" else FromFrames
    graph = kind(predictor.model, Fitting.of(predictor.transforms, size, divisor)).eval()
    told = about(predictor, graph)
    program = files.capture(graph, not args.no_grid_sample)
    files.write(program, target, told, args.opset or files.OPSET)
    written = {args.format: target}
    if args.int8:
        from detrex_ext.export.int8 import write_int8

        written["int8"] = target.with_name(f"{target.stem}_int8{target.suffix}")
        write_int8(target, written["int8"], graph, to_calibrate(args, predictor))
    for path in written.values():
        height, width = graph.frame
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, frame {height}x{width}, preprocessing {args.preprocessing}")
    return _compare(args, predictor, graph, written) if args.count else 0


def _checked(args: argparse.Namespace) -> tuple[Path, tuple[int, int] | None]:
    """The file to write and the size of the frame, of arguments that make sense."""
    if args.count < 0:
        raise UserError(f"--count {args.count}: expected 0 or more images")
    if args.tolerance is not None and not args.tolerance >= 0:
        raise UserError(f"--tolerance {args.tolerance}: expected a difference of AP, 0 or more")
    if args.format != "onnx" and (args.int8 or args.opset is not None):
        raise UserError(f"{'--int8' if args.int8 else '--opset'} is of ONNX: leave out --format {args.format}")
    if args.opset is not None and not 18 <= args.opset <= 25:
        raise UserError(f"--opset {args.opset}: expected 18 to 25")
    if not args.output and "://" in args.model:
        raise UserError("--output FILE: name the file to write")
    run = args.model if os.path.isdir(args.model) else os.path.dirname(args.model)
    target = Path(args.output) if args.output else in_run(run, f"model.{args.format}")
    if args.int8 and not args.output:
        in_run(run, "model_int8.onnx")
    if target.suffix != f".{args.format}":
        raise UserError(f"--output {target}: expected a name that ends with .{args.format}")
    check_file(target, "--output")
    if args.size is None:
        return target, None
    found = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", args.size)
    size = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not all(32 <= side <= 8192 for side in size):
        raise UserError(f"--size {args.size}: expected height x width in pixels, from 32 to 8192, such as 480x640")
    return target, size


def _compare(args: argparse.Namespace, predictor: Predictor, graph: Graph, written: dict[str, Path]) -> int:
    import numpy as np

    from detrex_ext.export import files
    from detrex_ext.export.compare import compare, first_images

    runs = {name: files.runner(path) for name, path in written.items()}
    json, images = (args.json, args.images or "") if args.json else data_of(args, predictor, "val")
    if not json:
        print("the run's validation data is not here: compared on noise; --json JSON --images DIR for images")
        rng = np.random.default_rng(0)
        noise = [{"image": rng.integers(0, 256, (*size, 3), dtype=np.uint8)} for size in (graph.frame, (75, 100))]
        return _told(args, compare(predictor, graph, runs, noise), written)
    with tempfile.TemporaryDirectory() as folder:
        truth = first_images(json, args.count, Path(folder))
        records = records_of(truth, folder_of(json, images), args.count)
        return _told(args, compare(predictor, graph, runs, records, truth), written)


def _told(args: argparse.Namespace, found: Comparison, written: dict[str, Path]) -> int:
    """Prints what was found; 1 where it is too much."""
    wrong = []
    for name, path in written.items():
        scores, boxes = max(found.scores[name], default=0.0), found.boxes[name] or [0.0]
        half = f"{statistics.median_low(boxes):.2g} on half of them"
        on = f"{name} against torch on {found.images} images"
        print(f"{on}: scores differ by up to {scores:.2g}, boxes by {max(boxes):.2g} pixels, {half}")
        most = args.tolerance if args.tolerance is not None else _LOSS_INT8 if name == "int8" else _LOSS
        loss = found.ap["torch"] - found.ap[name] if found.ap else math.nan
        if abs(loss) > most:
            wrong.append(f"{path}: AP differs by {abs(loss):.2f}, more than {most:g} (--tolerance)")
        elif math.isnan(loss) and name != "int8" and scores > _SCORE:
            wrong.append(f"{path}: scores differ by {scores:.2g}, more than {_SCORE:g}")
    if found.ap:
        each = ", ".join(f"{name} {found.ap[name]:.2f}" for name in ("torch", *written))
        print(f"AP in the frame: {each}; predict, each image at its own size: {found.ap['predict']:.2f}")
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0
