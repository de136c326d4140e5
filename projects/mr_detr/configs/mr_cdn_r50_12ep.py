"""Deformable-DETR++ with denoising and multi-route training (Mr. DETR-DINO), R50, 12 epochs of COCO at batch 16."""

from detrex_ext.criterion import Rule
from detrex_ext.matching import GivenMatcher
from detrex_ext.modeling.queries import DenoisingQueries
from detrex_ext.runtime import LazyCall as L

from .mr_deformable_plus_r50_12ep import dataloader, dataset, lr_multiplier, model, optimizer, train

model.queries.update(num_classes="${model.num_classes}", num_queries=900, match_anchors=False)
model.queries = L(DenoisingQueries)(
    source=model.queries,
    num_classes="${model.num_classes}",
    dim="${model.dim}",
    number=100,
    box_noise_scale=0.4,
    inverse_sigmoid_eps="${model.decoder.inverse_sigmoid_eps}",
)
model.strategies.mr.norm_factor = 3.0
model.strategies.mr.matcher.update(w_iou=0.8, w_cls=0.2)
model.rules.enc.matcher = "${model.rules.main.matcher}"
model.rules.enc.terms = "${model.rules.main.terms}"
model.rules.dn = L(Rule)(matcher=L(GivenMatcher)(), terms="${model.rules.main.terms}")
train.output_dir = "./output/mr_cdn_r50_12ep"
