"""Predict on images: `python tools/predict.py RUN_OR_CHECKPOINT INPUT --output DIR`;
see detrex_ext/cli/predict.py."""

import sys

from detrex_ext.cli import run
from detrex_ext.cli.predict import main

if __name__ == "__main__":
    sys.exit(run(main))
