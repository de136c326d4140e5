"""Measurements of time and memory, side by side with detrex where it is importable."""
