"""Dense query recollection over any host: every stage also learns on the output of all before it."""

from detrex_ext.config import apply_overlay


def apply(cfg, **options):
    """Adds the strategy; ``options`` are those of QueryRecollection."""
    return apply_overlay(cfg, "sqr", **{"window": None, **options})
