"""`python -m detrex_ext benchmark`: time and memory on this machine.

For example::

    python -m detrex_ext benchmark step --config-file small --strategies sqr,dac+sqr
    python -m detrex_ext benchmark step --only "480 px" --repeats 3
    python -m detrex_ext benchmark criterion --json criterion.json
    python -m detrex_ext benchmark sampling --device cuda
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from detrex_ext.benchmark import SUITES
from detrex_ext.errors import UserError

from . import benchmark_calculated
from .arguments import Parser, add_overlay, check_overrides
from .outputs import check_file


def build_parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    parser = Parser(
        prog="python -m detrex_ext benchmark",
        description="Median times of implementations run in turn, and the peak memory of each in a process of its own.",
        epilog="By calculation, without running anything: benchmark memory, benchmark scaling; each has --help.",
    )
    parser.add_argument("suite", choices=SUITES, metavar="SUITE", help=f"what to measure: {', '.join(SUITES)}")
    parser.add_argument(
        "--config-file",
        action="append",
        default=[],
        metavar="F",
        help="a model for step and inference, by path or short name; may be repeated (default: five published hosts)",
    )
    add_overlay(parser)
    parser.add_argument(
        "--strategies",
        default="",
        metavar="A,B+C",
        help="overlays, each (or those joined by +) measured beside the bare model; 'none' adds nothing",
    )
    parser.add_argument("--json", metavar="FILE", help="write the rows, with the machine and the versions")
    parser.add_argument("--repeats", type=int, metavar="N", help="runs of each (default 5 to 15, by suite)")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name contains it, such as '320 px'")
    parser.add_argument("--batch", type=int, default=2, metavar="N", help="images, in step and inference (default 2)")
    parser.add_argument("--device", default="cpu", metavar="D", help="cpu (default) or cuda")
    parser.add_argument("--threads", type=int, metavar="N", help="of torch on the CPU (default: one per core)")
    parser.add_argument("--no-memory", action="store_true", help="times only, which is much quicker")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="for every model")
    return parser


def main(
    argv: Sequence[str] | None = None, cells: Callable | None = None, notes: Callable | None = None
) -> int:
    """Run a suite; the table goes to standard output, progress to standard error.

    Args:
        argv: the verb's arguments.
        cells: instead of :func:`detrex_ext.benchmark.suites.cells`, of the same arguments.
        notes: instead of :func:`detrex_ext.benchmark.report.notes`, of the same arguments.

    Raises:
        UserError: an unknown strategy or device, or a file that cannot be written.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    calculated = {"memory": benchmark_calculated.memory, "scaling": benchmark_calculated.scaling}
    if argv and argv[0] in calculated:
        return calculated[argv[0]](argv[1:])
    args = build_parser().parse_args(argv)
    strategies = tuple(name for name in args.strategies.split(",") if name and name != "none")
    overlays = tuple(args.overlay)
    check_overrides(args.overrides)
    _check(args, [*overlays, *strategies])

    import torch

    from detrex_ext.benchmark import measure, report, suites
    from detrex_ext.runtime.machine import fit_threads

    if args.threads:
        torch.set_num_threads(args.threads)
    else:
        fit_threads()
    configs, overrides = tuple(args.config_file), tuple(args.overrides)
    options = measure.Options(strategies, args.device, args.batch, overrides, configs, overlays)
    chosen = [cell for cell in (cells or suites.cells)(args.suite, options) if args.only in cell.case]
    if not chosen:
        raise UserError(f"suite {args.suite} has no case whose name contains '{args.only}'")
    machine = measure.machine(args.device)
    print(report.machine_line(machine), flush=True)
    document = {"suite": args.suite, **asdict(options), "machine": machine, "notes": [], "rows": []}
    for rows in report.run(chosen, options, machine, args.repeats, not args.no_memory, _say):
        found = (notes or report.notes)(rows, options)
        print("\n".join(["", report.markdown(rows), "", *(f"- {note}" for note in found)]).rstrip(), flush=True)
        document["rows"] += rows
        document["notes"] += found
        if args.json:
            _write(args.json, document)  # after each case: a run that is cut short keeps those it made
    return 0


def _check(args: argparse.Namespace, overlays: Sequence[str]) -> None:
    from detrex_ext.config import find_overlay

    for name in (name for names in overlays for name in names.split("+")):
        find_overlay(name)
    if any(number is not None and number < 1 for number in (args.repeats, args.threads, args.batch)):
        raise UserError("--repeats, --threads and --batch must be 1 or more")
    check_file(args.json, "--json")
    if args.device != "cpu":
        from detrex_ext.runtime.devices import usable_device

        usable_device(args.device, "--device")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _write(file: str, document: dict[str, Any]) -> None:
    try:
        Path(file).write_text(json.dumps(document, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"--json {file} cannot be written: {error}") from error
