"""Deformable-DETR++ (H-DETR, arXiv 2207.13080; host of DAC-DETR), ResNet-50, 12 epochs of COCO at batch 16.

Two-stage with mixed selection, look-forward-twice, wider feed-forward blocks and no dropout.
"""

from detrex_ext import get_config
from detrex_ext.engine.optim import LrFactor
from detrex_ext.runtime import LazyCall as L

from .deformable_detr_r50_two_stage_50ep import dataloader, dataset, model, optimizer, train

lr_multiplier = get_config("common/schedule.py").lr_multiplier_12ep

model.backbone.freeze_at = 2
model.encoder.update(ffn_dim=2048, dropout=0.0)
model.queries.content = "mixed"
model.decoder.update(ffn_dim=2048, dropout=0.0, look_forward_twice=True)
model.rules.main.terms["class"].weight = 2.0
model.postprocess.top_k = 100
# constants of the authors' code
model.decoder.inverse_sigmoid_eps = 1e-5
model.rules.main.matcher.costs[2].eps = model.rules.main.terms["giou"].loss.eps = 0.0

dataloader.train.dataset.filter_empty = False
optimizer.lr = 2e-4
optimizer.params.weight_decay_norm = None
optimizer.params.lr_factor_func = L(LrFactor)(factors={"backbone": 0.1, "sampling_offsets": 0.1})
train.output_dir = "./output/deformable_detr_plus_r50_12ep"
train.max_iter = 90000
