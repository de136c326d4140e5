"""`python -m detrex_ext analyze`: what a model is made of and what it does."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from detrex_ext.errors import UserError

from . import (
    analyze_attention,
    analyze_compare,
    analyze_curves,
    analyze_queries,
    analyze_samples,
    analyze_stages,
)
from .analyze_inputs import add_config, config_of, settle
from .arguments import Parser, check_overrides
from .outputs import check_file


def build_parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    parser = Parser(
        prog="python -m detrex_ext analyze",
        description="Look into models, in one process. RUN is a run folder, a checkpoint, or a config by file or short "
        "name (with train.init_checkpoint=PATH where weights are needed).",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    model = what.add_parser(
        "model",
        help="parameters, operations, memory and data flow, part by part",
        description="Parameters, operations and memory of a config's model, part by part, and the shapes of what flows "
        "between them. Nothing is computed: shapes are enough, so the size of the images costs no time.",
    )
    add_config(model, "CONFIG", json="?")
    model.add_argument("--size", default="800x1333", metavar="HxW", help="of the images (default 800x1333)")
    model.add_argument("--batch", type=int, default=1, metavar="N", help="images (default 1)")
    model.set_defaults(main=_model)
    analyze_stages.add_parser(what)
    analyze_queries.add_parser(what)
    analyze_attention.add_parser(what)
    analyze_curves.add_parsers(what)
    analyze_samples.add_parser(what)
    analyze_compare.add_parser(what)
    parser.epilog = "\n".join(verb.format_usage() for verb in what.choices.values())
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the analysis, print it, and write its JSON where ``--json`` says.

    Returns:
        0.

    Raises:
        UserError: bad input; several processes, which would all do and write the same.
    """
    parser = build_parser()
    args, more = parser.parse_known_args(argv)
    if any(text.startswith("-") for text in more):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    args.words += more  # those behind options that follow others
    settle(args, parser)
    check_overrides(args.opts)
    if "LOCAL_RANK" in os.environ and os.environ.get("WORLD_SIZE") != "1":
        raise UserError(
            f"analyze runs in one process, not in {os.environ.get('WORLD_SIZE')} as torchrun started it\n"
            "  start it by python -m detrex_ext analyze ...; for stages in several processes: train --eval-only "
            "dataloader.evaluator.stages=true"
        )
    check_file(args.json, "--json")
    # with the JSON on standard output, all that is for people goes to standard error
    with contextlib.redirect_stdout(sys.stderr) if args.json == "-" else contextlib.nullcontext():
        values = args.main(args)
    if args.json == "-":
        print(json.dumps(values, indent=2))
    elif args.json:
        from detrex_ext.checkpoint.files import write_json

        write_json(values, args.json)
    return 0


def _model(args: argparse.Namespace) -> dict[str, Any]:
    size = re.fullmatch(r"(\d+)[xX](\d+)", args.size)
    if size is None or not min(map(int, size.groups())) or args.batch < 1:
        raise UserError(
            f"--size {args.size} --batch {args.batch}: expected HEIGHTxWIDTH in pixels, such as 800x1333, and 1 or more"
        )
    from detrex_ext.analysis import summarize
    from detrex_ext.inference import build_for_inference

    model = build_for_inference(config_of(args), num_classes=80, frozen=False)
    summary = summarize(model, int(size[1]), int(size[2]), args.batch)
    print(summary.text())
    return summary.to_dict()
