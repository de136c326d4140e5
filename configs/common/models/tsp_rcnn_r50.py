"""TSP-RCNN with a ResNet-50 (arXiv 2011.10881): a transformer over regions of interest, no decoder.

`model.dim` is the width of the transformer, `model.neck.channels` that of pyramid and proposal network. The backbone's
weights are of Caffe's time: channels in the order blue, green, red, no division by a deviation, strides in 1x1
convolutions. The published size of the model is that of `model.encoder.num_fc=2`.
"""

from detrex_ext.criterion import rpn_rule, tsp_rcnn_rule
from detrex_ext.modeling.backbones import ResNet
from detrex_ext.modeling.decoders import RegionHead
from detrex_ext.modeling.detector import Detector
from detrex_ext.modeling.encoders import RPN, RoIEncoder
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
        depth=50, out_features=["res2", "res3", "res4", "res5"], freeze_at=2, norm="FrozenBN", stride_in_1x1=True
    ),
    neck=L(FPN)(
        in_channels=dict(res2=256, res3=512, res4=1024, res5=2048),
        channels=256,
        num_outs="${model.num_levels}",
        norm="SyncBN",
    ),
    encoder=L(RoIEncoder)(
        rpn=L(RPN)(
            channels="${model.neck.channels}",
            strides=[8, 16, 32, 64, 128],
            sizes=[
                [32.0, 40.32, 51.8],
                [64.0, 80.63, 101.59],
                [128.0, 161.27, 203.19],
                [256.0, 322.54, 406.37],
                [512.0, 645.08, 812.75],
            ],
            ratios=[0.5, 1.0, 2.0],
            num_convs=2,
            norm="SyncBN",
            num_proposals=700,
            num_candidates=[2000, 1000],
            nms=0.7,
            num_samples=256,
            positive_share=0.5,
            iou=[0.3, 0.7],
        ),
        channels="${model.neck.channels}",
        dim="${model.dim}",
        num_heads="${model.num_heads}",
        ffn_dim=2048,
        dropout=0.1,
        num_layers=6,
        strides=[4, 8, 16, 32, 64, 128],
        pooled_levels=4,
        pool_size=7,
        num_fc=1,
        fc_dim=1024,
        coordinates=8,
        num_samples=700,
        positive_share=0.25,
        token_keep=[0.7, 1.0],
        iou=0.5,
        add_objects=True,
        attention="sdpa",
    ),
    queries=L(TokenQueries)(),
    decoder=L(RegionHead)(num_classes="${model.num_classes}", dim="${model.dim}", class_agnostic=False),
    postprocess=L(Postprocess)(top_k=100, nms=0.7, nms_of=10000, soft=None),
    num_classes=None,
    dim=512,
    num_heads=8,
    num_levels=6,
    strategies=L("builtins.dict")(),
    rules=L("builtins.dict")(
        main=L(tsp_rcnn_rule)(
            match="restricted",
            box_loss_on="candidates",
            eos=0.1,
            gamma=2.0,
            empty="background",
            class_weight=1.0,
            bbox_weight=1.0,
            giou_weight=2.0,
        ),
        token=L(rpn_rule)(num_samples="${model.encoder.rpn.num_samples}", class_weight=1.0, bbox_weight=2.0),
    ),
)
