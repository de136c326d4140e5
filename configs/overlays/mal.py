"""Matchability-aware classification (DEIM) over any sigmoid host: `--overlay mal`.

All groups of queries learn by it, proposals and denoising too.
"""

from detrex_ext.criterion import MatchabilityLoss, class_terms
from detrex_ext.runtime import LazyCall as L


def apply(cfg, gamma=1.5, weight=1.0):
    """``gamma`` of the loss, ``weight`` of the class terms."""
    for term in class_terms(cfg.model.rules, "mal").values():
        term.update(loss=L(MatchabilityLoss)(gamma=gamma), weight=weight)
    return cfg
