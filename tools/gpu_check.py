"""Check what needs a GPU: `python tools/gpu_check.py --minutes 8 --out DIR`; see detrex_ext/cli/gpu_check.py."""

import sys

from detrex_ext.cli import run
from detrex_ext.cli.gpu_check import main

if __name__ == "__main__":
    sys.exit(run(main))
