"""Numerical agreement with a functional reading of the papers, and with detrex where it is importable."""
