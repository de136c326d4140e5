"""DETR with a ResNet-50 (arXiv 2005.12872).

`model.num_classes` is read from the training JSON where it is None; the class head has one more, "no object".
"""

from detrex_ext.criterion import GIoULoss, L1Loss, Rule, SoftmaxLoss, Term
from detrex_ext.matching import GIoUCost, HungarianMatcher, L1Cost, SoftmaxClassCost
from detrex_ext.modeling.backbones import ResNet
from detrex_ext.modeling.decoders import DETRDecoder
from detrex_ext.modeling.detector import Detector
from detrex_ext.modeling.encoders import DenseEncoder
from detrex_ext.modeling.necks import InputProj
from detrex_ext.modeling.postprocess import Postprocess
from detrex_ext.modeling.preprocess import Preprocess
from detrex_ext.modeling.queries import PositionQueries
from detrex_ext.runtime import LazyCall as L

model = L(Detector)(
    preprocess=L(Preprocess)(
        pixel_mean=[123.675, 116.28, 103.53], pixel_std=[58.395, 57.12, 57.375], parity_padding=False
    ),
    backbone=L(ResNet)(depth=50, out_features=["res5"], freeze_at=1, norm="FrozenBN"),
    neck=L(InputProj)(in_channels=2048, out_channels="${model.dim}"),
    encoder=L(DenseEncoder)(
        dim="${model.dim}", num_heads="${model.num_heads}", ffn_dim=2048, dropout=0.1, num_layers=6, temperature=10000.0
    ),
    queries=L(PositionQueries)(num_queries=100, dim="${model.dim}"),
    decoder=L(DETRDecoder)(
        num_classes="${model.num_classes}",
        dim="${model.dim}",
        num_heads="${model.num_heads}",
        ffn_dim=2048,
        dropout=0.1,
        num_layers=6,
    ),
    postprocess=L(Postprocess)(top_k=None),
    num_classes=None,
    dim=256,
    num_heads=8,
    strategies=L("builtins.dict")(),
    rules=L("builtins.dict")(
        main=L(Rule)(
            matcher=L(HungarianMatcher)(
                costs=[L(SoftmaxClassCost)(weight=1.0), L(L1Cost)(weight=5.0), L(GIoUCost)(weight=2.0)]
            ),
            terms=L("builtins.dict")(
                **{
                    "class": L(Term)(loss=L(SoftmaxLoss)(eos=0.1), weight=1.0, normalizer="mean"),
                    "bbox": L(Term)(loss=L(L1Loss)(), weight=5.0),
                    "giou": L(Term)(loss=L(GIoULoss)(), weight=2.0),
                }
            ),
        ),
    ),
)
