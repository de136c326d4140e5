"""Look into a model: `python tools/analyze.py {model,stages,queries-per-object,attention} ...`; see cli/analyze.py."""

import sys

from detrex_ext.cli import run
from detrex_ext.cli.analyze import main

if __name__ == "__main__":
    sys.exit(run(main))
