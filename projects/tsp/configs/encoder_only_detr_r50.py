"""DETR without a decoder: every token of the encoder predicts, matched without restriction (TSP, section 3.3).

The schedule is that of `detr_r50_300ep`; the paper compares at equal schedules and publishes no config.
"""

from detrex_ext.modeling.decoders import TokenHead
from detrex_ext.modeling.queries import TokenQueries
from detrex_ext.runtime import LazyCall as L

from ...detr.configs.detr_r50_300ep import dataloader, dataset, lr_multiplier, model, optimizer, train

model.queries = L(TokenQueries)()
model.decoder = L(TokenHead)(num_classes="${model.num_classes}", dim="${model.dim}")
model.postprocess.top_k = 100
train.output_dir = "./output/encoder_only_detr_r50"
