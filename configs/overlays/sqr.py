"""Selective query recollection over any host: `--overlay sqr model.strategies.sqr.window=3`."""

from detrex_ext.runtime import LazyCall as L
from detrex_ext.strategies import QueryRecollection


def apply(cfg, **options):
    """Adds the strategy; ``options`` are those of QueryRecollection."""
    cfg.model.strategies.sqr = L(QueryRecollection)(**{"window": 2, "start_stage": 1, **options})
    return cfg
