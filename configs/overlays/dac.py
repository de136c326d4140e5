"""Divide and conquer over any host: `--overlay dac model.strategies.dac.matcher.k=4`."""

from detrex_ext import get_config


def apply(cfg, **options):
    """Adds the strategy; ``options`` are those of DivideAndConquer."""
    cfg.model.strategies.dac = get_config("common/strategies.py").dac
    cfg.model.strategies.dac.update(options)
    return cfg
