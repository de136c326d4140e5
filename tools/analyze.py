"""Look into a model or a run: `python tools/analyze.py --help` lists the analyses; see cli/analyze.py."""

import sys

from detrex_ext.cli import run
from detrex_ext.cli.analyze import main

if __name__ == "__main__":
    sys.exit(run(main))
