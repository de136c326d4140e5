"""What an exported file says of itself, beside the graph."""

from __future__ import annotations

from typing import Any

from detrex_ext import __version__
from detrex_ext.checkpoint.provenance import KEY, made_by
from detrex_ext.predictor import Predictor

from .graph import OUTPUTS, FromFrames, Graph


def about(predictor: Predictor, graph: Graph) -> dict[str, Any]:
    """Plain values: classes, threshold, how images come in, what comes out, and who made the file."""
    fitting, pre = graph.fitting, graph.model.preprocess
    resize = {"shape": fitting.shape} if fitting.shape else {"short_edge": fitting.short, "long_edge": fitting.longest}
    outside = isinstance(graph, FromFrames)
    return {
        "class_names": predictor.class_names,
        "category_ids": predictor.category_ids,
        "threshold": predictor.threshold.score,
        "class_thresholds": dict(predictor.threshold.classes),
        "threshold_from": predictor.threshold.origin,
        "preprocessing": "outside" if outside else "inside",
        "inputs": list(graph.inputs),
        "outputs": list(OUTPUTS),
        "frame": list(fitting.frame),
        "resize": resize,
        "pixel_mean": pre.pixel_mean.flatten().tolist(),
        "pixel_std": pre.pixel_std.flatten().tolist(),
        "channels": "bgr" if pre.bgr else "rgb",
        "version": __version__,
        KEY: made_by(),
    }
