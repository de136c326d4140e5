"""Collaborative heads (Co-DETR) over any host with a decoder: `--overlay co model.strategies.co.num_queries=100`."""

from detrex_ext import get_config


def apply(cfg, **options):
    """Adds the strategy; ``options`` are those of CollaborativeHeads."""
    cfg.model.strategies.co = get_config("common/strategies.py").co
    cfg.model.strategies.co.update(options)
    return cfg
