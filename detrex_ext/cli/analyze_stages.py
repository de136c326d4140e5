"""`python -m detrex_ext analyze stages`: what becomes of each query from stage to stage of a decoder."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from detrex_ext.errors import UserError

from .analyze_inputs import add_run, config_of, output_of, take_data, truth_of, weights_of
from .data_folder import add_data

_DESCRIPTION = """\
Evaluates a checkpoint and shows, for every decoder stage, AP of the best class of each query, and for the last stage
  TP-F         matches that the same query and class had better before: no lower IoU, a higher score (fading)
  FP-E         errors that, of the same query and class, were matches before or had a lower score (exacerbation)
  recoverable  missed objects that an earlier stage had found with a score above 0.1
  grief        exacerbated and recoverable errors among all errors
  oracle       AP of the 100 best (query, class) pairs if each query took its best stage, beside "top 100" without that
Writes stages.json and, of the images that lost most by fading, fading_*.png.
"""


def add_parser(verbs: Any) -> None:
    """Adds the verb to the subparsers of ``analyze``."""
    parser = verbs.add_parser(
        "stages",
        help="AP by decoder stage, fading matches, growing errors",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add_run(parser, "stages")
    add_data(parser, "evaluate on the validation images of")
    add("--iou", default="0.75", metavar="T", help="IoU of matches and AP: one, some (0.5,0.75), or all (default 0.75)")
    add("--images", type=int, default=8, metavar="N", help="worst fadings to draw, all stages in a row (default 8)")
    add("--pictures", type=int, help=argparse.SUPPRESS)
    parser.set_defaults(main=_run)


def _run(args: argparse.Namespace) -> dict[str, Any]:
    thresholds = _thresholds(args.iou)
    if args.pictures is not None:
        args.images = args.pictures
        print(f"--pictures {args.pictures} is now --images {args.pictures}", file=sys.stderr)
    if args.images < 0:
        raise UserError(f"--images {args.images}: expected 0 or more")
    from detrex_ext import engine
    from detrex_ext.analysis.stages import REPORT_FILE, StageEvaluator
    from detrex_ext.runtime import LazyCall

    cfg = config_of(args)
    take_data(cfg, args)
    cfg.train.init_checkpoint = weights_of(cfg.train.init_checkpoint, args)
    truth, output = truth_of(cfg), output_of(cfg, args, "stages")
    cfg.dataloader.evaluator = LazyCall(StageEvaluator)(
        json=truth, thresholds=thresholds, output_dir=str(output), images=args.images
    )
    if not engine.evaluate(cfg, args):
        raise UserError(f"nothing to analyze: {truth} has no images or no annotations")
    drawn = f", the worst fadings in {output}/fading_*.png" if any(output.glob("fading_*.png")) else ""
    print(f"metrics in {output / REPORT_FILE}{drawn}")
    return json.loads((output / REPORT_FILE).read_text(encoding="utf-8"))


def _thresholds(text: str) -> list[float]:
    """Numbers of ``--iou``.

    Raises:
        UserError: it holds something else.
    """
    if text == "all":
        from detrex_ext.analysis.stages import COCO_THRESHOLDS

        return list(COCO_THRESHOLDS)
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(0 < value < 1 for value in values):
        raise UserError(f"--iou {text}: expected numbers between 0 and 1, such as 0.75 or 0.5,0.75, or all")
    return values
