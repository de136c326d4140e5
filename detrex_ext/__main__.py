"""What ``python -m detrex_ext VERB ...`` runs."""

import sys

from detrex_ext.cli import dispatch

if __name__ == "__main__":
    sys.exit(dispatch())
