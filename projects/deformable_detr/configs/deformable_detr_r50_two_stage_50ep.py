"""Two-stage Deformable-DETR (with box refinement), ResNet-50, 50 epochs of COCO at batch 16."""

from detrex_ext.criterion import Rule
from detrex_ext.modeling.queries import TwoStageQueries
from detrex_ext.runtime import LazyCall as L

from .deformable_detr_r50_box_refine_50ep import dataloader, dataset, lr_multiplier, model, optimizer, train

model.queries = L(TwoStageQueries)(num_classes="${model.num_classes}", num_queries=300, dim="${model.dim}")
model.decoder.first_size_logit = 0.0
# every token's proposal is matched as "an object", whatever its class
model.rules.enc = L(Rule)(
    matcher="${model.rules.main.matcher}",
    terms="${model.rules.main.terms}",
    objectness=True,
)
train.output_dir = "./output/deformable_detr_r50_two_stage_50ep"
