"""Deformable-DETR with a ResNet-50 (arXiv 2010.04159), in its one-stage form without box refinement.

`model.num_classes` is read from the training JSON where it is None.
"""

from detrex_ext.criterion import FocalLoss, GIoULoss, L1Loss, Rule, Term
from detrex_ext.matching import FocalClassCost, GIoUCost, HungarianMatcher, L1Cost
from detrex_ext.modeling.backbones import ResNet
from detrex_ext.modeling.decoders import DeformableDecoder
from detrex_ext.modeling.detector import Detector
from detrex_ext.modeling.encoders import DeformableEncoder
from detrex_ext.modeling.necks import ChannelMapper
from detrex_ext.modeling.postprocess import Postprocess
from detrex_ext.modeling.preprocess import Preprocess
from detrex_ext.modeling.queries import LearnedQueries
from detrex_ext.runtime import LazyCall as L

model = L(Detector)(
    preprocess=L(Preprocess)(
        pixel_mean=[123.675, 116.28, 103.53], pixel_std=[58.395, 57.12, 57.375], parity_padding=False
    ),
    backbone=L(ResNet)(depth=50, out_features=["res3", "res4", "res5"], freeze_at=1, norm="FrozenBN"),
    neck=L(ChannelMapper)(
        in_channels=dict(res3=512, res4=1024, res5=2048),
        out_channels="${model.dim}",
        num_outs="${model.num_levels}",
    ),
    encoder=L(DeformableEncoder)(
        dim="${model.dim}",
        num_heads="${model.num_heads}",
        num_levels="${model.num_levels}",
        num_points=4,
        ffn_dim=1024,
        dropout=0.1,
        num_layers=6,
    ),
    queries=L(LearnedQueries)(num_queries=300, dim="${model.dim}"),
    decoder=L(DeformableDecoder)(
        num_classes="${model.num_classes}",
        dim="${model.dim}",
        num_heads="${model.num_heads}",
        num_levels="${model.num_levels}",
        num_points=4,
        ffn_dim=1024,
        dropout=0.1,
        num_layers=6,
        refine=False,
        first_size_logit=-2.0,
        inverse_sigmoid_eps=1e-3,
    ),
    postprocess=L(Postprocess)(top_k=300),
    num_classes=None,
    dim=256,
    num_heads=8,
    num_levels=4,
    strategies=L("builtins.dict")(),
    rules=L("builtins.dict")(
        main=L(Rule)(
            matcher=L(HungarianMatcher)(
                costs=[L(FocalClassCost)(weight=2.0), L(L1Cost)(weight=5.0), L(GIoUCost)(weight=2.0)]
            ),
            terms=L("builtins.dict")(
                **{
                    "class": L(Term)(loss=L(FocalLoss)(alpha=0.25, gamma=2.0), weight=1.0),
                    "bbox": L(Term)(loss=L(L1Loss)(), weight=5.0),
                    "giou": L(Term)(loss=L(GIoULoss)(), weight=2.0),
                }
            ),
        ),
    ),
)
