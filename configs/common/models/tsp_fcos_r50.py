"""TSP-FCOS with a ResNet-50 (arXiv 2011.10881): a transformer over features of interest, no decoder.

`model.dim` is the width of the transformer, `model.neck.channels` that of pyramid and towers. The backbone's weights
are of Caffe's time: channels in the order blue, green, red, no division by a deviation, strides in 1x1 convolutions.
"""

from detrex_ext.criterion import tsp_fcos_rule, tsp_token_rule
from detrex_ext.modeling.backbones import ResNet
from detrex_ext.modeling.decoders import FCOSHead
from detrex_ext.modeling.detector import Detector
from detrex_ext.modeling.encoders import FoIEncoder
from detrex_ext.modeling.necks import FPN
from detrex_ext.modeling.postprocess import Postprocess
from detrex_ext.modeling.preprocess import Preprocess
from detrex_ext.modeling.queries import TokenQueries
from detrex_ext.runtime import LazyCall as L

model = L(Detector)(
    preprocess=L(Preprocess)(
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[1.0, 1.0, 1.0],
        parity_padding=False,
        size_divisor=32,
        bgr=True,
    ),
    backbone=L(ResNet)(
        depth=50, out_features=["res3", "res4", "res5"], freeze_at=2, norm="FrozenBN", stride_in_1x1=True
    ),
    neck=L(FPN)(
        in_channels=dict(res3=512, res4=1024, res5=2048),
        channels=256,
        num_outs="${model.num_levels}",
        norm="SyncBN",
    ),
    encoder=L(FoIEncoder)(
        num_classes="${model.num_classes}",
        channels="${model.neck.channels}",
        dim="${model.dim}",
        num_heads="${model.num_heads}",
        ffn_dim=2048,
        dropout=0.1,
        num_layers=6,
        strides=[8, 16, 32, 64, 128],
        num_convs=4,
        deformable=False,
        num_tokens=700,
        token_keep=[0.7, 1.0],
        gt_boost=True,
        mask_padded_tokens=True,
        foi_head="classwise",
        radius=1.5,
        parity_padding=False,
        attention="sdpa",
    ),
    queries=L(TokenQueries)(),
    decoder=L(FCOSHead)(
        num_classes="${model.num_classes}", dim="${model.dim}", strides="${model.encoder.strides}"
    ),
    postprocess=L(Postprocess)(top_k=100, nms=0.6, nms_of=5000, root=True),
    num_classes=None,
    dim=512,
    num_heads=8,
    num_levels=5,
    strategies=L("builtins.dict")(),
    rules=L("builtins.dict")(
        main=L(tsp_fcos_rule)(
            match="restricted",
            box_loss_on="candidates",
            class_denorm="mixed_2x",
            eos=0.1,
            only_reweight_fg=True,
            alpha=0.25,
            gamma=2.0,
            class_weight=1.0,
            giou_weight=1.0,
            centerness_weight=1.0,
        ),
        token=L(tsp_token_rule)(binary=False, alpha=0.25, gamma=2.0, weight=1.0),
    ),
)
