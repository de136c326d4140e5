"""Decoder stages skipped at random in training: `--overlay stochastic_depth`.

It comes before all other strategies: what they add is never skipped.
"""

from omegaconf import OmegaConf

from detrex_ext.runtime import LazyCall as L
from detrex_ext.strategies import StochasticDepth


def apply(cfg, **options):
    """Adds the strategy; ``options`` are those of StochasticDepth."""
    depth = L(StochasticDepth)(**{"first": 1.0, "last": 0.5, **options})
    cfg.model.strategies = {"stochastic_depth": depth, **cfg.model.strategies}
    # the parameters of a skipped stage have no gradient
    OmegaConf.update(cfg, "train.ddp.find_unused_parameters", True, force_add=True)
    return cfg
