"""DAB-DETR with a ResNet-50 (arXiv 2201.12329).

`model.num_classes` is read from the training JSON where it is None. `model.preprocess.parity_padding=true` reproduces
detrex's masks: none in evaluation, and none in the decoder's cross-attention, in training too.
"""

from detrex_ext.criterion import FocalLoss, GIoULoss, L1Loss, Rule, Term
from detrex_ext.matching import FocalClassCost, GIoUCost, HungarianMatcher, L1Cost
from detrex_ext.modeling.backbones import ResNet
from detrex_ext.modeling.decoders import DABDecoder
from detrex_ext.modeling.detector import Detector
from detrex_ext.modeling.encoders import DenseEncoder
from detrex_ext.modeling.necks import InputProj
from detrex_ext.modeling.postprocess import Postprocess
from detrex_ext.modeling.preprocess import Preprocess
from detrex_ext.modeling.queries import AnchorQueries
from detrex_ext.runtime import LazyCall as L

model = L(Detector)(
    preprocess=L(Preprocess)(
        pixel_mean=[123.675, 116.28, 103.53], pixel_std=[58.395, 57.12, 57.375], parity_padding=False
    ),
    backbone=L(ResNet)(depth=50, out_features=["res5"], freeze_at=1, norm="FrozenBN"),
    neck=L(InputProj)(in_channels=2048, out_channels="${model.dim}"),
    encoder=L(DenseEncoder)(
        dim="${model.dim}",
        num_heads="${model.num_heads}",
        ffn_dim=2048,
        dropout=0.0,
        num_layers=6,
        temperature=20.0,
        scale_position=True,
        prelu=True,
    ),
    queries=L(AnchorQueries)(num_queries=300, dim="${model.dim}", num_patterns=0),
    decoder=L(DABDecoder)(
        num_classes="${model.num_classes}",
        dim="${model.dim}",
        num_heads="${model.num_heads}",
        ffn_dim=2048,
        dropout=0.0,
        num_layers=6,
        parity_padding="${model.preprocess.parity_padding}",
        inverse_sigmoid_eps=1e-3,
    ),
    postprocess=L(Postprocess)(top_k=300),
    num_classes=None,
    dim=256,
    num_heads=8,
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
