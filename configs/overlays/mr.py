"""Multi-route training (Mr. DETR) over any host of several layers: `--overlay mr model.strategies.mr.matcher.k=4`."""

from detrex_ext import get_config


def apply(cfg, **options):
    """Adds the strategy; ``options`` are those of MultiRoute."""
    cfg.model.strategies.mr = get_config("common/strategies.py").mr
    cfg.model.strategies.mr.update(options)
    return cfg
