"""Matching restricted by overlap (TSP-RCNN) over any two-stage host: `--overlay roi_rule`.

An object is matched with a proposal whose anchor, and with a query whose first box, has an IoU of at least `threshold`
with it, or the highest of all where it is lower; one without any is left out of the step. Inference is the host's.
"""

from detrex_ext.errors import UserError
from detrex_ext.matching import RoIMatcher
from detrex_ext.runtime import LazyCall as L


def apply(cfg, threshold=0.5, enc_threshold=0.3, low_quality=True, box_loss_on="matched", eos=1.0):
    """``enc_threshold`` is that of proposals, whose anchors know no shapes; see RoIMatcher for the rest."""
    if "enc" not in cfg.model.rules:
        raise UserError("the overlay roi_rule needs a two-stage host: this one has no proposals (no model.rules.enc)")
    for group, least in (("main", threshold), ("enc", enc_threshold)):
        options = {"threshold": least, "low_quality": low_quality, "box_on": box_loss_on, "eos": eos}
        cfg.model.rules[group].matcher = L(RoIMatcher)(**options)
    return cfg
