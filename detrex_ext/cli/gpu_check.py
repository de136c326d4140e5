"""`python -m detrex_ext doctor --gpu`: is what a GPU computes right, does it wait, how fast is it (`docs/gpu.md`)."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detrex_ext.errors import UserError
from detrex_ext.gpu_check.table import STEPS, STEPS_OF_THE_CHECK, Options, Step, resolve

from .arguments import Parser, did_you_mean
from .arguments import names as names_of
from .outputs import make_folder, show

_MOST = 24 * 60.0


def build_parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    steps = "\n".join(f"  {step.name:<16}  {step.question}" for step in STEPS)
    parser = Parser(
        prog="python -m detrex_ext doctor --gpu",
        description="Checks on a GPU what needs one, in a given time, and writes report.json and report.md as it goes.",
        epilog=f"steps, in this order:\n{steps}\n\nExit code 0: all of them held; 1: one did not, or had no time left; "
        "2: it could not begin.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=8.0, metavar="M", help="for all of it (default 8)")
    parser.add_argument("--only", action="extend", type=names_of, default=[], metavar="A,B", help="these steps")
    parser.add_argument("--match", default="", metavar="TEXT", help="of these, cases with this in their name")
    parser.add_argument("--out", default="output/gpu_check", metavar="DIR", help="folder (default output/gpu_check)")
    parser.add_argument("--device", default="cuda", metavar="D", help="cuda (default); cpu runs the same logic there")
    parser.add_argument("--quick", action="store_true", help="small sizes and few cases, to try it")
    parser.add_argument("--commit", default="", metavar="C", help="of the code, for the report (default: git's)")
    return parser


def main(argv: Sequence[str] | None = None, table: str = STEPS_OF_THE_CHECK) -> int:
    """Run the check.

    Args:
        argv: the verb's arguments.
        table: ``module:name`` of the steps.

    Returns:
        0 where every step held, 1 where one did not or had no time.

    Raises:
        UserError: no such GPU, step or case, a time that is none, or a folder that cannot be written to.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    args = build_parser().parse_args(argv)
    if not 0 < args.minutes <= _MOST:
        raise UserError(f"--minutes {args.minutes}: expected more than 0, at most {_MOST:g}")
    steps = _chosen(resolve(table), args.only)
    _check_device(args.device)
    out = make_folder(args.out, "--out")

    from detrex_ext.gpu_check import report
    from detrex_ext.gpu_check.results import Result
    from detrex_ext.gpu_check.session import Session

    options = Options(args.device, args.quick, args.commit, args.match)
    command = shlex.join(["python", "-m", "detrex_ext", "doctor", "--gpu", *argv])
    head: dict[str, Any] = {"command": command, "began": time.strftime("%Y-%m-%d %H:%M:%S %z"),
                            "device": args.device, "quick": args.quick, "minutes": args.minutes}  # fmt: skip

    def changed(results: list[Result], one: Result) -> None:
        report.write(out, head, results)
        if one.over:
            show(report.line(one))
            sys.stdout.flush()

    session = Session(steps, options, args.minutes, out, changed, table)
    results = session.run()
    if args.match and not any(result.rows for result in results):
        raise UserError(f"--match '{args.match}': no case of {', '.join(s.name for s in steps)} has this in its name")
    held = report.held(results)
    show(f"{'all of it holds' if held else 'not all of it holds'}: {Path(out) / 'report.md'}")
    return 0 if held else 1


def _check_device(device: str) -> None:
    import torch

    from detrex_ext.runtime.devices import usable_device

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("there is no GPU that torch can use here; --device cpu --quick tries the same logic on the CPU")
    usable_device(device, "--device")


def _chosen(steps: Sequence[Step], only: Sequence[str]) -> list[Step]:
    known = {step.name: step for step in steps}
    for name in only:
        if name not in known:
            near = did_you_mean(name, list(known))
            raise UserError(f"--only {name}: there is no such step{near}\n  steps: {', '.join(known)}")
    return [step for step in steps if not only or step.name in only]
