"""Decoder stages skipped at random in training: `--overlay stochastic_depth`."""

from detrex_ext.runtime import LazyCall as L
from detrex_ext.strategies import StochasticDepth


def apply(cfg, **options):
    """Adds the strategy; ``options`` are those of StochasticDepth."""
    cfg.model.strategies.stochastic_depth = L(StochasticDepth)(**{"first": 1.0, "last": 0.5, **options})
    return cfg
