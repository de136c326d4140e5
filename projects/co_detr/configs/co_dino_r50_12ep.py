"""DINO with collaborative heads (Co-DINO), five scales, ResNet-50, 12 epochs of COCO at batch 16.

As the authors train and evaluate it: classes learn how well their boxes lie, duplicates are softly suppressed.
"""

from detrex_ext import get_config
from detrex_ext.criterion import QualityFocalLoss
from detrex_ext.runtime import LazyCall as L

from ...dino.configs.dino_r50_5scale_12ep import dataloader, dataset, lr_multiplier, model, optimizer, train

model.backbone.freeze_at = 2
model.encoder.update(temperature=20.0, offset=0.0)
model.strategies.co = get_config("common/strategies.py").co
model.strategies.co.update(heads=["roi", "atss"], features=False)
model.rules.main.terms["class"].loss = L(QualityFocalLoss)(beta=2.0)
# constants of the authors' code
model.rules.main.matcher.costs[0].eps = 1e-12
model.rules.main.matcher.costs[2].eps = model.rules.main.terms["giou"].loss.eps = 0.0
model.postprocess.update(top_k=300, nms=0.8, soft="linear", nms_of=900)

dataloader.train.dataset.filter_empty = False
optimizer.lr = 2e-4
optimizer.params.weight_decay_norm = None
train.output_dir = "./output/co_dino_r50_12ep"
