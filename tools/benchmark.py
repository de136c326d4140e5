"""Time and memory: `python tools/benchmark.py SUITE [--json FILE]`; see detrex_ext/cli/benchmark.py."""

import sys

from detrex_ext.cli import run
from detrex_ext.cli.benchmark import main

if __name__ == "__main__":
    sys.exit(run(main))
