"""Convert a checkpoint: `python tools/convert_checkpoint.py IN OUT [--to detrex]`; see detrex_ext/cli/convert.py."""

import sys

from detrex_ext.cli import run
from detrex_ext.cli.convert import main

if __name__ == "__main__":
    sys.exit(run(main))
