"""`python -m detrex_ext analyze`: what a model is made of and what it does."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Sequence

from detrex_ext.errors import UserError

from . import analyze_attention, analyze_queries, analyze_stages
from .analyze_inputs import config_of


def build_parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m detrex_ext analyze",
        description="Look into models, in one process.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    model = what.add_parser(
        "model",
        help="parameters, operations, memory and data flow, part by part",
        description="Parameters, operations and memory of a config's model, part by part, and the shapes of what flows "
        "between them. Nothing is computed: shapes are enough, so the size of the pictures costs no time.",
    )
    model.add_argument("--config-file", required=True, metavar="F", help="config file or short name")
    model.add_argument("--overlay", default="", metavar="A,B", help="overlays to lay over the config, in order")
    model.add_argument("--size", default="800x1333", metavar="HxW", help="of the pictures (default 800x1333)")
    model.add_argument("--batch", type=int, default=1, metavar="N", help="pictures (default 1)")
    model.add_argument("--json", action="store_true", dest="as_json", help="print one JSON document")
    model.add_argument("opts", nargs="*", metavar="key=value", help="overrides of the config")
    model.set_defaults(run=_model)
    analyze_stages.add_parser(what)
    analyze_queries.add_parser(what)
    analyze_attention.add_parser(what)
    parser.epilog = "\n".join(verb.format_usage() for verb in what.choices.values())
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the analysis and print it.

    Returns:
        0.

    Raises:
        UserError: bad input; several processes, which would all do and write the same.
    """
    parser = build_parser()
    args, more = parser.parse_known_args(argv)
    if more and (not hasattr(args, "opts") or any(text.startswith("-") for text in more)):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    if more:  # overrides behind options that follow other overrides
        args.opts += more
    if "LOCAL_RANK" in os.environ and os.environ.get("WORLD_SIZE") != "1":
        raise UserError(
            f"analyze runs in one process, not in {os.environ.get('WORLD_SIZE')} as torchrun started it\n"
            "  start it by python -m detrex_ext analyze ...; for stages in several processes: train --eval-only "
            "dataloader.evaluator.stages=true"
        )
    return args.run(args)


def _model(args: argparse.Namespace) -> int:
    size = re.fullmatch(r"(\d+)[xX](\d+)", args.size)
    if size is None or not min(map(int, size.groups())) or args.batch < 1:
        raise UserError(
            f"--size {args.size} --batch {args.batch}: expected HEIGHTxWIDTH in pixels, such as 800x1333, and 1 or more"
        )
    from detrex_ext.analysis import summarise
    from detrex_ext.inference import build_for_inference

    model = build_for_inference(config_of(args), num_classes=80, frozen=False)
    summary = summarise(model, int(size[1]), int(size[2]), args.batch)
    print(json.dumps(summary.to_dict(), indent=2) if args.as_json else summary.text())
    return 0
