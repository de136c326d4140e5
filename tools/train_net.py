#!/usr/bin/env python
"""Train or evaluate: `python -m detrex_ext train` from a checkout."""

import sys

from detrex_ext.cli import run
from detrex_ext.cli.train import main

if __name__ == "__main__":
    sys.exit(run(main))
