"""Any host trained one-to-many by DAC-DETR's rule, duplicates suppressed at test time: `--overlay one_to_many`.

Two-stage hosts match their proposals by the same rule, as they do without: `model.rules.enc.matcher` follows main's.
Options of the rule: `model.rules.main.matcher.k=4`; the suppression: `model.postprocess.nms=0.7`.
"""

from detrex_ext.matching import OneToManyMatcher
from detrex_ext.runtime import LazyCall as L


def apply(cfg, nms=0.8, **options):
    """``nms`` is an IoU; ``options`` are those of OneToManyMatcher."""
    cfg.model.rules.main.matcher = L(OneToManyMatcher)(**{"k": 6, "threshold": 0.4, **options})
    cfg.model.postprocess.nms = nms
    return cfg
