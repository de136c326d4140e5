"""A Swin-T in any host, with torchvision's ImageNet weights: `--overlay swin_t model.backbone.drop_path=0.1`."""

from detrex_ext.modeling.backbones import SwinTransformer, swap_backbone
from detrex_ext.runtime import LazyCall as L


def apply(cfg, **options):
    """``options`` are those of SwinTransformer."""
    cfg.train.init_checkpoint = "https://download.pytorch.org/models/swin_t-704ceda3.pth"
    backbone = L(SwinTransformer)(**{"drop_path": 0.2, "freeze_at": 0, "checkpoint": False, **options})
    return swap_backbone(cfg, backbone, dict(res2=96, res3=192, res4=384, res5=768))
