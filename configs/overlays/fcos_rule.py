"""Matching restricted by FCOS's rule (TSP-FCOS) over any two-stage host: `--overlay fcos_rule`.

An object is matched with a proposal, and with a query, whose cell lies around its center on the level for its size; one
without any is left out of the step. Inference is the host's.
"""

from detrex_ext.errors import UserError
from detrex_ext.matching import FCOSMatcher
from detrex_ext.runtime import LazyCall as L


def apply(cfg, box_loss_on="matched", eos=1.0, radius=1.5):
    """``box_loss_on`` matched or candidates; see FCOSMatcher for the rest."""
    if "enc" not in cfg.model.rules:
        raise UserError("the overlay fcos_rule needs a two-stage host: this one has no proposals (no model.rules.enc)")
    levels = cfg.model.num_levels
    # a backbone's last map has 32 pixels a cell, and each that the neck makes beyond twice as many
    coarsest = 32 * 2 ** (levels - len(cfg.model.neck.in_channels))
    strides = [coarsest // 2**level for level in reversed(range(levels))]
    options = {"box_on": box_loss_on, "eos": eos, "radius": radius, "strides": strides}
    for group in ("main", "enc"):
        cfg.model.rules[group].matcher = L(FCOSMatcher)(**options)
    return cfg
