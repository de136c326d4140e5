"""Rank-DETR's class loss and late matching over any sigmoid host: `--overlay high_order`.

The target of a class is how well its box lies; in the last quarter of the training p x IoU^4 alone decides the
matching. Proposals and denoising keep their class loss. Late matching with another loss: `--overlay high_order,mal`.
"""

from detrex_ext.criterion import GIoUAwareLoss, class_terms
from detrex_ext.errors import UserError
from detrex_ext.matching import HighOrderCost, HungarianMatcher, LateMatcher
from detrex_ext.runtime import LazyCall as L


def apply(cfg, since=0.75, power=4.0):
    """From ``since`` on, a progress of the training, the cost of a pair is -p IoU^``power``."""
    rules = cfg.model.rules
    for group, term in class_terms(rules, "high_order", apart=["enc", "dn"]).items():
        if group not in ("enc", "dn"):
            term.loss = L(GIoUAwareLoss)()
    early = rules.main.matcher
    if "HungarianMatcher" not in str(early._target_):
        raise UserError(
            "the overlay high_order replaces one one-to-one matching by another: it needs a HungarianMatcher at "
            "model.rules.main.matcher\n  lay it before overlays that replace the matcher"
        )
    late = L(HungarianMatcher)(costs=[L(HighOrderCost)(power=power)])
    rules.main.matcher = L(LateMatcher)(early=early, late=late, since=since)
    return cfg
