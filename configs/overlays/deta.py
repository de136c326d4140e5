"""DETA's assignment (arXiv 2212.06137) over any two-stage host: `--overlay deta`.

Proposals and queries answer for objects by the IoU of the boxes that they begin with, several for an object; duplicates
are suppressed at test time.
"""

from detrex_ext.errors import UserError
from detrex_ext.matching import OneToManyMatcher
from detrex_ext.runtime import LazyCall as L


def apply(cfg, k=4, nms=0.7):
    """At most ``k`` queries of an object; ``nms`` is an IoU."""
    if "enc" not in cfg.model.rules:
        raise UserError("the overlay deta needs a two-stage host: this one proposes no boxes (no model.rules.enc)")
    rule = {"k": k, "w_iou": 1.0, "w_cls": 0.0, "boxes": "prior"}
    cfg.model.rules.main.matcher = L(OneToManyMatcher)(threshold=0.6, cap=0.25, **rule)
    cfg.model.rules.enc.matcher = L(OneToManyMatcher)(threshold=0.7, cap=128, **rule)
    cfg.model.postprocess.nms = nms
    return cfg
