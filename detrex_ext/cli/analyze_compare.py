"""`python -m detrex_ext analyze compare`: runs beside each other, seeds with mean and spread."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .outputs import show

_TEXT = """\
Curves of runs over steps and over time, and a table. Runs whose configs differ in seed and folder alone are one group,
with mean and standard deviation; where a run has no config.yaml, those whose names differ in the number at their end.
  in equal time  the last evaluation within the time of the shortest group
Time is that of the steps, without evaluations, as each run logged it: compare runs of one machine.
"""


def add_parser(verbs: Any) -> None:
    """Adds the verb to the subparsers of ``analyze``."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = verbs.add_parser("compare", help="runs beside each other, over steps and time; seeds with mean and spread",
                              description=_TEXT, formatter_class=raw)  # fmt: skip
    add = parser.add_argument
    add("words", nargs="+", metavar="RUN", help="run folder, or its metrics.json")
    add("--metric", default="bbox/AP", metavar="NAME", help="scalar of metrics.json (default bbox/AP)")
    add("--output", metavar="FILE", help="png, pdf or svg (default: compare.png in the first run)")
    add("--json", metavar="FILE", help="write the numbers there; - for standard output")
    parser.set_defaults(main=_compare, positional=("RUN",), config_file=None)


def _compare(args: argparse.Namespace) -> dict[str, Any]:
    from detrex_ext.analysis.compare import draw_comparison, read_runs

    first = Path(args.run)
    output = args.output or (first if first.is_dir() else first.parent) / "compare.png"
    found = read_runs([args.run, *args.opts], args.metric)
    show(found.text())
    draw_comparison(found, output)
    show(f"curves in {output}")
    return found.to_dict()
