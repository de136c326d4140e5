"""Deformable-DETR++ with 900 queries, denoising, divide and conquer and IoU-aware classification, ResNet-50, 12 epochs.

The authors' released recipe; encoder proposals keep the focal loss.
"""

from detrex_ext.criterion import AlignedLoss, FocalLoss, Term
from detrex_ext.runtime import LazyCall as L

from .dac_cdn_r50_12ep import dataloader, dataset, lr_multiplier, model, optimizer, train

model.rules.enc.terms = L("builtins.dict")(
    **{
        "class": L(Term)(loss=L(FocalLoss)(alpha=0.25, gamma=2.0), weight=2.0),
        "bbox": "${model.rules.main.terms.bbox}",
        "giou": "${model.rules.main.terms.giou}",
    }
)
model.rules.main.terms["class"] = L(Term)(loss=L(AlignedLoss)(alpha=0.25, gamma=2.0), weight=1.0)
model.strategies.dac.matcher.tau = 1.5
train.output_dir = "./output/dac_cdn_ice_r50_12ep"
