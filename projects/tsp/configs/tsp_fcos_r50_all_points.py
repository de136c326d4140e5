"""TSP-FCOS without a choice of points: all 22,400 of an image of 800x1344 enter the encoder, 36 epochs of COCO.

An ablation of this project: no figures are published. The encoder's arithmetic grows from 16 to about 3,500 GMAC.
"""

from .tsp_fcos_r50_3x import dataloader, dataset, lr_multiplier, model, optimizer, train

model.encoder.num_tokens = None
model.encoder.token_keep = 1.0
train.output_dir = "./output/tsp_fcos_r50_all_points"
