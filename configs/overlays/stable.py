"""Stable matching (Stable-DINO) over any sigmoid host: `--overlay stable`.

How well a box lies is the target of its class, and counts in the class cost of the matching, for proposals too.
"""

from detrex_ext.criterion import PositionLoss, class_terms
from detrex_ext.errors import UserError
from detrex_ext.matching import PositionClassCost
from detrex_ext.runtime import LazyCall as L


def apply(cfg, weight=6.0, dn_weight=1.0, power=2.0, cost_power=0.5):
    """``weight`` of the class terms, of denoising ``dn_weight``; ``power`` of the IoU, ``cost_power`` in the cost."""
    rules = cfg.model.rules
    for group, term in class_terms(rules, "stable", apart=["dn"]).items():
        term.update(loss=L(PositionLoss)(power=power), weight=dn_weight if group == "dn" else weight)
    costs = rules.main.matcher.get("costs") or []
    focal = [i for i, cost in enumerate(costs) if "FocalClassCost" in str(cost._target_)]
    if not focal:
        raise UserError(
            "the overlay stable needs a matcher with a FocalClassCost among its costs; model.rules.main.matcher has "
            "none\n  lay it before overlays that replace the matcher"
        )
    for i in focal:
        kept = {key: value for key, value in costs[i].items() if key != "_target_"}
        costs[i] = L(PositionClassCost)(**kept, power=cost_power)
    return cfg
