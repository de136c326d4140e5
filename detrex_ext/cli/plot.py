"""`python -m detrex_ext plot`: loss and AP curves of runs as one image."""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import Parser
from .outputs import in_run


def build_parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    parser = Parser(
        prog="python -m detrex_ext plot", description="Draw loss, learning rate and AP of runs as one image."
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder of train_net.py")
    parser.add_argument("--output", metavar="FILE", help="png, pdf or svg (default: curves.png in the first run)")
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help="scalars of metrics.json to draw instead")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Draw the curves.

    Returns:
        0.

    Raises:
        UserError: a run without metrics, a scalar that no run has, matplotlib is absent.
    """
    args = build_parser().parse_args(argv)
    from detrex_ext.visualization import plot_curves

    first = Path(args.runs[0])
    output = args.output or in_run(first if first.is_dir() else first.parent, "curves.png")
    drawn = plot_curves(args.runs, output, args.metrics)
    print(f"{output}: {', '.join(drawn)}")
    return 0
