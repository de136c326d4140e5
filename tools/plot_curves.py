"""Draw curves of runs: `python tools/plot_curves.py RUN [RUN ...] [--output PNG]`; see detrex_ext/cli/plot.py."""

import sys

from detrex_ext.cli import run
from detrex_ext.cli.plot import main

if __name__ == "__main__":
    sys.exit(run(main))
