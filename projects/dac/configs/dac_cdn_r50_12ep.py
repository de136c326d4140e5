"""Deformable-DETR++ with 900 queries, denoising and divide and conquer, ResNet-50, 12 epochs of COCO at batch 16.

As the authors evaluate, with suppression of duplicates; losses are the host's.
"""

from detrex_ext.criterion import Rule
from detrex_ext.matching import GivenMatcher
from detrex_ext.modeling.queries import DenoisingQueries
from detrex_ext.runtime import LazyCall as L

from .dac_deformable_plus_r50_12ep import dataloader, dataset, lr_multiplier, model, optimizer, train

model.queries.update(num_classes="${model.num_classes}", num_queries=900)
model.queries = L(DenoisingQueries)(
    source=model.queries,
    num_classes="${model.num_classes}",
    dim="${model.dim}",
    number=100,
    box_noise_scale=0.4,
    inverse_sigmoid_eps="${model.decoder.inverse_sigmoid_eps}",
)
model.rules.dn = L(Rule)(matcher=L(GivenMatcher)(), terms="${model.rules.main.terms}")
model.postprocess.update(top_k=300, nms=0.8)
train.output_dir = "./output/dac_cdn_r50_12ep"
