"""`python -m detrex_ext convert`: a checkpoint of any known project under the names of another."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Any

from detrex_ext.errors import UserError

from .arguments import Parser

EPILOG = """\
examples:
  the authors' Deformable-DETR as a file of ours, ready to be fine-tuned on other classes:
    python -m detrex_ext convert r50_deformable_detr-checkpoint.pth deformable.pth
  held against a model, every tensor of it, and with its config inside, ready to predict:
    python -m detrex_ext convert official.pth ours.pth --config-file dino_r50_4scale_12ep
  a training whose inference loops one decoder stage, without the weights of the others:
    python -m detrex_ext convert output/run small.pth --config-file output/run --inference-stages
  a training of ours for detrex, averaged weights:
    python -m detrex_ext convert model_final.pth for_detrex.pth --to detrex
"""


def build_parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    from detrex_ext.checkpoint.layouts import OURS, families

    parser = Parser(
        prog="python -m detrex_ext convert",
        description="Rename the tensors of a checkpoint; its kind is told from its names.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="IN", help="run folder, or checkpoint of this project, detrex, ...")
    parser.add_argument("target", metavar="OUT", help="file to write; never IN")
    parser.add_argument("--to", default=OURS.name, choices=(OURS.name, *families()), help="names to write")
    parser.add_argument("--config-file", metavar="F", help="model that the file must fit")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--no-average", dest="average", action="store_false", default=None, help="the trained weights")
    which.add_argument("--ema", dest="average", action="store_true", help="the averaged weights, or none")
    parser.add_argument(
        "--inference-stages",
        action="store_true",
        help="keep only the decoder stages that the config's inference runs (model.decoder.eval_order)",
    )
    parser.add_argument("--trust", action="store_true", help="build a run's model of unknown packages too")
    parser.add_argument("--report", action="store_true", help="print every key and what became of it")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Convert.

    Returns:
        0.

    Raises:
        UserError: a file that cannot be read or converted.
    """
    args = build_parser().parse_args(argv)
    from detrex_ext.checkpoint import FORMAT_HELP, convert

    if args.inference_stages and not args.config_file:
        raise UserError("--inference-stages needs --config-file, which says what inference runs")
    if not re.match("[a-z][a-z0-9]+:", args.source) and not os.path.exists(args.source):
        raise UserError(f"checkpoint {args.source}: not found\n  expected a run folder, or {FORMAT_HELP}")
    model, extra, stages = _model(args) if args.config_file else (None, None, None)
    report = convert(args.source, args.target, args.to, model, args.average, extra, stages)
    print(f"weights: {report.weights}")
    print(report.full() if args.report else report)
    if stages is not None:
        mb = Path(args.target).stat().st_size / 1e6
        print(f"{args.target}: {mb:.0f} MB, with decoder stages {', '.join(map(str, stages))}, names of {args.to}")
        return 0
    dropped = f", {len(report.dropped)} left out on purpose" if report.dropped else ""
    print(f"{args.target}: {len(report.matched)} tensors by the names of {args.to}{dropped}")
    return 0


def _model(args: argparse.Namespace) -> tuple[Any, dict[str, Any], list[int] | None]:
    """The config's model; the config of the file to write as text; the stages to keep, None = all.

    The number of classes is the file's where the config leaves it open.
    """
    from detrex_ext.checkpoint import classes_of, find_weights
    from detrex_ext.checkpoint.stages import inference_stages
    from detrex_ext.config import LazyConfig, load_config
    from detrex_ext.inference import build_for_inference, config_in
    from detrex_ext.trust import check_trusted

    if os.path.isdir(args.config_file) and not args.trust:
        cfg = config_in({}, args.config_file)
        check_trusted(cfg, args.config_file)
    else:
        cfg = load_config(args.config_file)
    if "num_classes" in cfg.model and cfg.model.num_classes is None:
        found = find_weights(args.source)
        cfg.model.num_classes, _ = classes_of(found.data, found.path)
    model, stages = build_for_inference(cfg), None
    if args.inference_stages:
        cfg, stages = inference_stages(cfg, model.decoder.eval_order)
    return model, {"config": LazyConfig.dumps(cfg)}, stages
