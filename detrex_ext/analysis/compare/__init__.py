"""Runs beside each other: those that differ in their seed alone are one group, with its mean and spread."""

from .drawing import draw_comparison
from .runs import Comparison, Run, read_runs

__all__ = ["Comparison", "Run", "draw_comparison", "read_runs"]
