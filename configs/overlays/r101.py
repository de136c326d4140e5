"""A ResNet-101 in any host, with detectron2's ImageNet weights: `--overlay r101`."""

from detrex_ext.modeling.backbones import ResNet, swap_backbone
from detrex_ext.runtime import LazyCall as L

KEPT = ("freeze_at", "norm", "dilate_res5", "checkpoint")


def apply(cfg, **options):
    """What the host says of its ResNet stays; ``options`` are those of ResNet."""
    before = cfg.model.backbone
    kept = {key: before[key] for key in KEPT if key in before and "depth" in before}
    backbone = L(ResNet)(**{"depth": 101, **kept, **options})
    cfg.train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-101.pkl"
    return swap_backbone(cfg, backbone, dict(res2=256, res3=512, res4=1024, res5=2048))
