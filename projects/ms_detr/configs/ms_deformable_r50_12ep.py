"""Two-stage Deformable-DETR with mixed supervision (MS-DETR), 300 queries, ResNet-50, 12 epochs of COCO at batch 16."""

from .ms_deformable_plus_r50_12ep import dataloader, dataset, lr_multiplier, model, optimizer, train

model.encoder.dropout = 0.1
model.queries.content = "projected"
model.decoder.update(dropout=0.1, look_forward_twice=False)
train.output_dir = "./output/ms_deformable_r50_12ep"
