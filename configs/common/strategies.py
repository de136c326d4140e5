"""Training strategies with all their options, for overlays and projects: `get_config("common/strategies.py").dac`."""

from detrex_ext.matching import OneToManyMatcher
from detrex_ext.runtime import LazyCall as L
from detrex_ext.strategies import DivideAndConquer, MixedSupervision, MultiRoute

dac = L(DivideAndConquer)(
    matcher=L(OneToManyMatcher)(
        k=6, threshold=0.4, w_iou=0.7, w_cls=0.3, cap=75, conflict="multi", tau=None, alpha=0.25, boxes="predicted"
    ),
    start="shared",
    denoising=True,
    box_source="main",
    first_stage=0,
    weight=1.0,
    dn_weight=1.0,
    class_weight=None,
    norm_factor=3.0,
    recollected=False,
)

# the rule of the authors of both: a quarter of the queries at most are candidates, and a query has one class
_many = L(OneToManyMatcher)(
    k=6, threshold=0.4, w_iou=0.7, w_cls=0.3, cap=0.25, conflict="one_class", tau=None, alpha=0.25, boxes="predicted"
)
mr = L(MultiRoute)(matcher=_many, num_tokens=10, weight=1.0)
ms = L(MixedSupervision)(matcher=_many, own_ffn=True, class_weight=None, weight=1.0)
