"""TSP-FCOS as a reading of its paper has it where its authors' code does otherwise, 36 epochs of COCO.

The classifier of points knows objects only; points anywhere in a box are candidates, and come by their scores alone;
30 % of them stay in training; only matched tokens have box losses; nothing is suppressed.
"""

from .tsp_fcos_r50_3x import dataloader, dataset, lr_multiplier, model, optimizer, train

model.encoder.update(foi_head="binary", radius=None, gt_boost=False, token_keep=0.3)
model.rules.token.binary = True
model.rules.main.box_loss_on = "matched"
model.postprocess.nms = None
train.output_dir = "./output/tsp_fcos_r50_3x_paper"
