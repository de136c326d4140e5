"""DINO, four scales, ResNet-50, 12 epochs: nothing frozen, 300 denoising queries, class weight 2 but for denoising."""

from detrex_ext.criterion import FocalLoss, Term
from detrex_ext.engine.optim import LrFactor
from detrex_ext.runtime import LazyCall as L

from .dino_r50_4scale_12ep import dataloader, dataset, lr_multiplier, model, optimizer, train

model.backbone.freeze_at = 0
model.queries.number = 300
model.rules.main.terms["class"].weight = 2.0
model.rules.dn.terms = L("builtins.dict")(
    **{
        "class": L(Term)(loss=L(FocalLoss)(alpha=0.25, gamma=2.0), weight=1.0),
        "bbox": "${model.rules.main.terms.bbox}",
        "giou": "${model.rules.main.terms.giou}",
    }
)

# learning rates of the original Deformable-DETR, and weight decay everywhere
optimizer.lr = 2e-4
optimizer.params.weight_decay_norm = None
optimizer.params.lr_factor_func = L(LrFactor)(factors={"backbone": 0.1, "sampling_offsets": 0.1})
train.output_dir = "./output/dino_r50_4scale_12ep_better_hyper"
