"""A Swin-L (window 12, as pretrained at 384 px) in any host: `--overlay swin_l train.init_checkpoint=FILE`.

FILE is the authors' classifier, such as `swin_large_patch4_window12_384_22k.pth`.
"""

from detrex_ext.modeling.backbones import SwinTransformer, swap_backbone
from detrex_ext.runtime import LazyCall as L

LARGE = dict(dim=192, depths=[2, 2, 18, 2], num_heads=[6, 12, 24, 48], window_size=12)


def apply(cfg, **options):
    """``options`` are those of SwinTransformer."""
    cfg.train.init_checkpoint = ""
    backbone = L(SwinTransformer)(**{**LARGE, "drop_path": 0.2, "freeze_at": 0, "checkpoint": False, **options})
    return swap_backbone(cfg, backbone, dict(res2=192, res3=384, res4=768, res5=1536))
