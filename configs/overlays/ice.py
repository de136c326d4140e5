"""IoU-aware classification (Align-DETR's) over any sigmoid host: `--overlay ice`, or `--overlay dac,ice`.

Encoder proposals keep their loss. After `dac`, pairs of an auxiliary set are weighted by their rank.
"""

import copy

from detrex_ext.criterion import AlignedLoss
from detrex_ext.errors import UserError
from detrex_ext.runtime import LazyCall as L


def apply(cfg, alpha=0.25, gamma=2.0, tau=1.5, weight=1.0):
    """``alpha`` and ``gamma`` of the loss, ``tau`` of the rank weights, ``weight`` of the class term."""
    rules = cfg.model.rules
    if "terms" not in rules.main:
        raise UserError("the overlay ice needs a rule with terms to put its class loss into; model.rules.main has none")
    if "enc" in rules:
        rules.enc.terms = copy.deepcopy(rules.main.terms)
    rules.main.terms["class"].update(loss=L(AlignedLoss)(alpha=alpha, gamma=gamma), weight=weight)
    if "dac" in cfg.model.strategies:
        cfg.model.strategies.dac.matcher.update(tau=tau, alpha=alpha)
    return cfg
