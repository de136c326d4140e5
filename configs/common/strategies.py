"""Training strategies with all their options, for overlays and projects: `get_config("common/strategies.py").dac`."""

from detrex_ext.matching import OneToManyMatcher
from detrex_ext.runtime import LazyCall as L
from detrex_ext.strategies import DivideAndConquer

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
