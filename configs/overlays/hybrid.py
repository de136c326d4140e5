"""Hybrid queries (H-DETR) over any host: `--overlay hybrid model.rules.hybrid.times=4`."""

from detrex_ext.criterion import hybrid_rule
from detrex_ext.modeling.queries import HybridQueries, wrap_source
from detrex_ext.runtime import LazyCall as L


def apply(cfg, num_extra=1500, times=6, weight=1.0):
    """``num_extra`` queries in training, ``times`` for an object, with ``weight`` times the host's losses."""
    wrap_source(cfg.model, L(HybridQueries)(num_extra=num_extra))
    cfg.model.rules.hybrid = L(hybrid_rule)(main="${model.rules.main}", times=times, weight=weight)
    return cfg
