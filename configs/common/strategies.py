"""Training strategies with all their options, for overlays and projects: `get_config("common/strategies.py").dac`."""

from detrex_ext.matching import OneToManyMatcher
from detrex_ext.runtime import LazyCall as L
from detrex_ext.strategies import CollaborativeHeads, DivideAndConquer, MixedSupervision, MultiRoute

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

# as both of them have it: a query has one class, and candidates are a quarter of the queries at most or of 900
_many = dict(k=6, threshold=0.4, w_iou=0.7, w_cls=0.3, conflict="one_class", tau=None, alpha=0.25, boxes="predicted")
mr = L(MultiRoute)(
    matcher=L(OneToManyMatcher)(cap=225, **_many), num_tokens=10, denoising=True, weight=1.0, norm_factor=1.0
)
ms = L(MixedSupervision)(matcher=L(OneToManyMatcher)(cap=0.25, **_many), own_ffn=True, class_weight=None, weight=1.0)
co = L(CollaborativeHeads)(
    heads=["atss"], give_queries=True, num_queries=300, features=True, weight=1.0, head_weight=2.0
)
