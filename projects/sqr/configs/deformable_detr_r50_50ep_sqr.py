"""Deformable-DETR (one-stage, no refinement), ResNet-50, 50 epochs, with selective query recollection: 32 sets.

Published at batch 32, learning rate 2e-4 (lower for backbone, sampling offsets, reference points), norms decayed too,
the backbone frozen up to res2.
"""

from detrex_ext.engine.optim import LrFactor
from detrex_ext.runtime import LazyCall as L
from detrex_ext.strategies import QueryRecollection

from ...deformable_detr.configs.deformable_detr_r50_50ep import (
    dataloader,
    dataset,
    lr_multiplier,
    model,
    optimizer,
    train,
)

model.strategies.sqr = L(QueryRecollection)(window=2, start_stage=1)
model.backbone.freeze_at = 2
model.rules.main.terms["class"].weight = 2.0
model.postprocess.top_k = 100
# constants of mmdetection, in which it was published
model.decoder.inverse_sigmoid_eps = 1e-5
model.rules.main.matcher.costs[0].eps = 1e-12
model.rules.main.matcher.costs[2].eps = model.rules.main.terms["giou"].loss.eps = 0.0
dataloader.train.total_batch_size = 32
dataloader.train.dataset.filter_empty = False
optimizer.lr = 2e-4
optimizer.params.weight_decay_norm = None
_slow = {"backbone": 0.1, "sampling_offsets": 0.1, "reference_points": 0.1}
optimizer.params.lr_factor_func = L(LrFactor)(factors=_slow)
train.reference_batch = 32
train.max_iter = 187500  # 50 epochs of 3,750 iterations
train.output_dir = "./output/deformable_detr_r50_50ep_sqr"
