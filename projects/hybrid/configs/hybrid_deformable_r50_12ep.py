"""H-Deformable-DETR, two-stage, ResNet-50, 12 epochs of COCO at batch 16: queries are projected from the proposals."""

from .hybrid_deformable_plus_r50_12ep import dataloader, dataset, lr_multiplier, model, optimizer, train

model.encoder.dropout = 0.1
model.queries.source.content = "projected"
model.decoder.update(dropout=0.1, look_forward_twice=False)
train.output_dir = "./output/hybrid_deformable_r50_12ep"
