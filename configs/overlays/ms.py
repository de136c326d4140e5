"""Mixed supervision (MS-DETR) over any host of several layers: `--overlay ms model.strategies.ms.class_weight=2`.

With `model.decoder.cross_first=true` (deformable hosts) in the authors' order of a layer, which inference has then too.
"""

from detrex_ext import get_config


def apply(cfg, **options):
    """Adds the strategy; ``options`` are those of MixedSupervision."""
    cfg.model.strategies.ms = get_config("common/strategies.py").ms
    cfg.model.strategies.ms.update(options)
    return cfg
