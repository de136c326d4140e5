"""Two-stage Deformable-DETR with divide and conquer, ResNet-50, 12 epochs of COCO at batch 16.

The recipe of Deformable-DETR++ without its changes of data flow: queries are projected from the proposals.
"""

from .dac_deformable_plus_r50_12ep import dataloader, dataset, lr_multiplier, model, optimizer, train

model.encoder.dropout = 0.1
model.queries.content = "projected"
model.decoder.update(dropout=0.1, look_forward_twice=False)
train.output_dir = "./output/dac_deformable_r50_12ep"
