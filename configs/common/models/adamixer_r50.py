"""AdaMixer with a ResNet-50 (arXiv 2203.16507), 100 queries.

`model.num_classes` is read from the training JSON where it is None. The published models sample padding like any other
place: `model.decoder.mask_padding=false`. Boxes are measured in the image: leave `preprocess.parity_padding` false.
"""

from detrex_ext.criterion import FocalLoss, GIoULoss, L1Loss, Rule, Term
from detrex_ext.matching import FocalClassCost, GIoUCost, HungarianMatcher, L1Cost
from detrex_ext.modeling.backbones import ResNet
from detrex_ext.modeling.decoders import AdaMixerDecoder
from detrex_ext.modeling.detector import Detector
from detrex_ext.modeling.encoders import FlattenEncoder
from detrex_ext.modeling.necks import ChannelMapper
from detrex_ext.modeling.postprocess import Postprocess
from detrex_ext.modeling.preprocess import Preprocess
from detrex_ext.modeling.queries import WholeImageQueries
from detrex_ext.runtime import LazyCall as L

model = L(Detector)(
    preprocess=L(Preprocess)(pixel_mean=[123.675, 116.28, 103.53], pixel_std=[58.395, 57.12, 57.375], size_divisor=32),
    # statistics are constant, scales and shifts are trained
    backbone=L(ResNet)(depth=50, out_features=["res2", "res3", "res4", "res5"], freeze_at=2, norm="EvalBN"),
    neck=L(ChannelMapper)(
        in_channels=dict(res2=256, res3=512, res4=1024, res5=2048),
        out_channels="${model.dim}",
        norm="GN",
        shared_norm=True,
    ),
    encoder=L(FlattenEncoder)(),
    queries=L(WholeImageQueries)(num_queries=100, dim="${model.dim}"),
    decoder=L(AdaMixerDecoder)(
        num_classes="${model.num_classes}",
        dim="${model.dim}",
        num_heads="${model.num_heads}",
        groups=4,
        in_points=32,
        out_points=128,
        ffn_dim=2048,
        num_layers=6,
        strides=[4, 8, 16, 32],
        mask_padding=True,
    ),
    postprocess=L(Postprocess)(top_k=100),
    num_classes=None,
    dim=256,
    num_heads=8,
    strategies=L("builtins.dict")(),
    rules=L("builtins.dict")(
        main=L(Rule)(
            matcher=L(HungarianMatcher)(
                costs=[
                    L(FocalClassCost)(weight=2.0, eps=1e-12),
                    L(L1Cost)(weight=5.0, xyxy=True),
                    L(GIoUCost)(weight=2.0, eps=0.0),
                ]
            ),
            terms=L("builtins.dict")(
                **{
                    "class": L(Term)(loss=L(FocalLoss)(alpha=0.25, gamma=2.0), weight=2.0),
                    "bbox": L(Term)(loss=L(L1Loss)(xyxy=True), weight=5.0),
                    "giou": L(Term)(loss=L(GIoULoss)(eps=0.0), weight=2.0),
                }
            ),
        ),
    ),
)
