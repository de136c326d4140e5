"""`python -m detrex_ext predict`: boxes drawn on images and videos, and files of them."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from detrex_ext.errors import UserError
from detrex_ext.predicting.files import is_video

from . import data_folder
from .outputs import make_folder
from .predict_files import check_targets, find_images, names_of, output_of
from .predict_options import build_parser, check

if TYPE_CHECKING:
    from detrex_ext.predictor import Predictor

    from .predict_work import Work


def main(argv: list[str] | None = None) -> int:
    """Predict on every image; those that cannot be read are named at the end.

    Returns:
        0.

    Raises:
        UserError: no images, no model, an image that cannot be decoded (after the others are done).
    """
    args = build_parser().parse_args(argv)
    check(args)
    output = output_of(args.output, args.model)
    with tempfile.TemporaryDirectory() as folder:
        return _run(args, output, *_files(args, folder))


def _files(args: argparse.Namespace, folder: str) -> tuple[list[Path], str | None]:
    """The images and videos, and the annotation file with their boxes, if there is one."""
    if args.webcam is not None:
        return [], None
    if args.data is None:
        if not args.inputs:
            raise UserError("predict: name images, videos, a folder of them, or a data set by --data DIR")
        return find_images(args.inputs), args.ground_truth
    if args.inputs or args.ground_truth:
        raise UserError("--data names the images and their boxes: without INPUT and --ground-truth")
    run = args.model if os.path.isdir(args.model) else os.path.dirname(args.model)
    json, images = data_folder.prepare(args, folder, run).of("val")
    from detrex_ext.data.ground_truth import read_ground_truth

    named = [image["file_name"] for image in read_ground_truth(json, sound=True).images]
    return [Path(images) / name for name in named], json


def _run(args: argparse.Namespace, output: Path, files: list[Path], ground_truth: str | None) -> int:
    moves = (lambda _: True) if args.fps is not None else is_video
    images, of_video = ([file for file in files if moves(file) is wanted] for wanted in (False, True))
    if (args.every or args.max_frames) and not of_video and args.webcam is None:
        raise UserError("--every and --max-frames are of videos, of --webcam and of --fps")
    if ground_truth and not images:
        raise UserError("--ground-truth and --data are of images, and none is named that is no frame")
    if args.fps is not None and any(map(is_video, files)):
        raise UserError("--fps is of images that are frames: name folders of images alone")

    from detrex_ext.api import load
    from detrex_ext.runtime import machine
    from detrex_ext.runtime.devices import usable_device

    from .predict_truth import Truth
    from .predict_work import Work, targets, videos

    moving = videos(args, of_video)
    called = names_of(images, [file for _, file, _ in moving])
    read = [*files, *([Path(ground_truth)] if ground_truth else [])]
    check_targets([output / name for name in targets(args, called[: len(images)], called[len(images) :])], read)
    if args.device:
        usable_device(args.device, "--device")
    machine.fit_threads()
    truth = Truth(ground_truth, images) if ground_truth else None
    source, weights = (args.config_file, args.model) if args.config_file else (args.model, None)
    how = {"device": args.device, "average": False if args.no_average else None, "trust": args.trust}
    how |= {"precision": args.precision, "compile": args.compile, "cuda_graphs": args.cuda_graphs}
    predictor = load(source, weights=weights, **how)
    print(f"weights: {predictor.weights}")
    if args.precision != "fp32":
        print(f"precision: {predictor.precision} ({predictor.precision_reason})")
    shown, origin = _shown(predictor, args.threshold)
    print(f"threshold: {shown} ({origin})")
    work = Work(predictor, args, make_folder(output), truth)
    if work.tiling:
        size = f"{work.tiling.width} x {work.tiling.height} pixels"
        print(f"slices: {size}, {work.tiling.overlap:.0%} of them shared with the next, and each image as a whole")
    began = time.perf_counter()
    work.on_images(images, called[: len(images)])
    for (frames, file, count), name in zip(moving, called[len(images) :], strict=True):
        work.on_video(frames, file, name, count)
    work.close()
    return _told(work, args, time.perf_counter() - began, shown, len(images), len(moving))


def _told(work: Work, args: argparse.Namespace, seconds: float, shown: str, images: int, moving: int) -> int:
    """Tells what was found; 0."""
    if work.written:
        seen = [_number(n, word) for n, word in ((work.images, "image"), (work.frames, "frame")) if n]
        drawn = "" if args.no_draw else f", drawn in {work.output}"
        objects = f"{_number(work.objects, 'object')} with score >= {shown} on {' and '.join(seen)}"
        print(f"{objects}{drawn}; all in {', '.join(map(str, work.written))}")
        done = "read and found" if args.no_draw else "read, found, drawn and saved"
        print(f"{seconds:.1f} s, {(work.images + work.frames) / seconds:.3g} images/s: {done}")
    if work.failed:
        lines = "\n".join(f"  {reason}" for reason in work.failed[:10])
        more = f"\n  ... and {len(work.failed) - 10} more" if len(work.failed) > 10 else ""
        others = "; the others are done" if work.written else ", so nothing is written"
        total = _number(images, "image") if not moving else f"{images + moving} inputs"
        raise UserError(f"{len(work.failed)} of {total} cannot be used{others}\n{lines}{more}")
    return 0


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
