"""Check a COCO data set: `python tools/check_dataset.py JSON [--images DIR] [--json]`; see detrex_ext/cli/check.py."""

import sys

from detrex_ext.cli import run
from detrex_ext.cli.check import main

if __name__ == "__main__":
    sys.exit(run(main))
