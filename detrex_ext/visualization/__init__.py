"""Images for people: boxes on images, curves of runs."""

from .curves import plot_curves, read_metrics
from .draw import below, beside, draw_boxes

__all__ = ["below", "beside", "draw_boxes", "plot_curves", "read_metrics"]
