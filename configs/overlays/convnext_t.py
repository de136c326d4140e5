"""timm's ConvNeXt-T in any host: `--overlay convnext_t train.init_checkpoint=FILE`; needs `pip install timm`.

FILE holds timm's weights: `torch.save(timm.create_model("convnext_tiny", pretrained=True).state_dict(), FILE)`.
"""

from detrex_ext.modeling.backbones import TimmBackbone, swap_backbone
from detrex_ext.runtime import LazyCall as L


def apply(cfg, **options):
    """``options`` are those of TimmBackbone."""
    cfg.train.init_checkpoint = ""
    defaults = {"name": "convnext_tiny", "drop_path": 0.2, "freeze_at": 0, "checkpoint": False, "out_norm": True}
    return swap_backbone(cfg, L(TimmBackbone)(**{**defaults, **options}), dict(res2=96, res3=192, res4=384, res5=768))
