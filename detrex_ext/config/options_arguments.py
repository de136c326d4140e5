"""Declared ranges of constructors' arguments: by name, with exceptions by class.

Types are those of the annotations, meanings those of the docstrings. Bounds above a thousand only keep absurd values
from memory and time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from .options_types import Option

_COUNT = Option(least=1, most=10**6)
_SIZE = Option(least=1, most=65536)
_SIZES = Option(least=1, most=65536, items=(1, 4))
_LAYERS = Option(least=1, most=200)
_PROBABILITY = Option(least=0, most=1)
_SHARE = Option(least=0, below=1)
_WEIGHT = Option(least=0, most=10**6, meaning="factor")
_PIXELS = Option(least=1, most=16384, unit="pixels")
_IMAGES = Option(least=1, most=65536, unit="images")
_STAGES = Option(choices=("res2", "res3", "res4", "res5"), items=(1, 4))
_RGB = Option(least=0, most=255, items=(3, 3))
_STD = Option(above=0, most=255, items=(3, 3))
_FACTOR = Option(least=0, most=100)
_DECAY = Option(float | None, least=0, most=10)
_RATE = Option(float, above=0, most=100, meaning="learning rate")

ARGUMENTS: dict[str, Option] = {
    # sizes
    "dim": _SIZE, "ffn_dim": _SIZE, "out_channels": _SIZE, "in_channels": _SIZE, "stem": _SIZES, "widths": _SIZES,
    "channels": _SIZE, "in_points": _SIZE, "out_points": _SIZE, "width_per_group": _SIZE,
    "num_heads": Option(least=1, most=1024), "num_points": Option(least=1, most=256),
    "num_levels": Option(least=1, most=16), "num_outs": Option(least=1, most=16), "groups": Option(least=1, most=1024),
    "num_convs": Option(least=0, most=100), "attention": Option(choices=("sdpa", "math")),
    "num_layers": _LAYERS, "blocks": Option(least=1, most=200, items=(1, 4)),
    "depths": Option(least=1, most=200, items=(4, 4)), "window_size": Option(least=1, most=256, unit="cells"),
    "depth": Option(least=1, most=1000), "kernel_size": Option(least=1, most=31),
    "strides": Option(least=1, most=1024, items=(1, 16), unit="pixels"), "size_divisor": Option(least=1, most=4096),
    "out_features": _STAGES, "deform_stages": Option(choices=_STAGES.choices),
    "in_feature": Option(choices=_STAGES.choices), "freeze_at": Option(least=0, most=5),
    "norm": Option(choices=("FrozenBN", "EvalBN", "BN", "SyncBN", "GN")),
    "order": Option(least=0, most=200, items=(1, 1000)), "eval_order": Option(least=0, most=200, items=(1, 1000)),
    "chunk": _COUNT, "dropout": _SHARE, "drop_path": _SHARE,
    "temperature": Option(above=0, most=10**6), "offset": Option(least=-10, most=10),
    "first_size_logit": Option(least=-20, most=20),
    "position": Option(choices=("given", "reference")),
    "pixel_mean": _RGB, "pixel_std": _STD,
    # queries
    "num_classes": Option(null=True, least=1, most=10**6),
    "num_queries": _COUNT, "num_extra": _COUNT, "number": _COUNT, "num_patterns": Option(least=0, most=1000),
    "label_noise_ratio": Option(least=0, most=2), "box_noise_scale": Option(least=0, most=10),
    "anchor_size": Option(above=0, most=1), "pad_to": _COUNT,
    "content": Option(choices=("projected", "learned", "mixed", "memory")),
    "num_tokens": _COUNT, "foi_head": Option(choices=("classwise", "binary")),
    "token_keep": Option(above=0, most=1, items=(2, 2), ascending=True),
    "num_proposals": _COUNT, "num_candidates": Option(least=1, most=10**6, items=(2, 2)), "num_samples": _COUNT,
    "positive_share": _PROBABILITY, "iou": Option(above=0, most=1, items=(2, 2), ascending=True),
    "sizes": Option(above=0, most=10**4, unit="pixels"), "ratios": Option(above=0, most=100, items=(1, 100)),
    "pooled_levels": Option(least=1, most=16), "pool_size": Option(least=1, most=64, unit="cells"),
    "num_fc": Option(least=1, most=100), "fc_dim": _SIZE, "coordinates": Option(least=4, most=8),
    "soft": Option(choices=("linear", "gaussian")), "sigma": Option(above=0, most=100),
    "score": Option(choices=("objectness", "max")), "supervise": Option(choices=("all", "selected")),
    # answers
    "top_k": _COUNT, "nms": Option(above=0, most=1), "nms_of": Option(least=1, most=10**7),
    "max_dets": Option(least=10, most=10**6),
    # supervision
    "weight": _WEIGHT, "dn_weight": _WEIGHT, "class_weight": _WEIGHT, "bbox_weight": _WEIGHT, "giou_weight": _WEIGHT,
    "stage_weights": Option(least=0, most=10**6, items=(1, 1000)),
    "cost_class": _WEIGHT, "cost_bbox": _WEIGHT, "cost_giou": _WEIGHT, "w_iou": _WEIGHT, "w_cls": _WEIGHT,
    "cost_class_type": Option(choices=("focal_loss_cost", "ce_cost")), "cut": _COUNT,
    "solver": Option(choices=("auto", "scipy", "triton")),
    "alpha": Option(least=0, most=1, meaning="of the focal loss: share of the positives"),
    "gamma": Option(least=0, most=20, meaning="of the focal loss: how much less an easy entry counts"),
    "beta": Option(least=1, most=20), "power": Option(above=0, most=20), "eos": _PROBABILITY,
    "inverse_sigmoid_eps": Option(above=0, below=0.5),
    "eps": Option(least=0, most=0.1, meaning="added to denominators or inside logarithms"),
    "giou_eps": Option(least=0, most=0.1),
    "factor": Option(above=0, most=1000), "xyxy": Option(meaning="of the corners instead of cxcywh"),
    "k": Option(least=1, most=1000), "times": Option(least=1, most=1000), "threshold": Option(least=0, most=10),
    "cap": Option(above=0, most=10**6), "tau": Option(above=0, most=1000),
    "conflict": Option(choices=("multi", "one_class", "last_class", "best")),
    "boxes": Option(choices=("predicted", "prior")),
    "take": Option(choices=("best", "all")), "box_on": Option(choices=("candidates", "matched")),
    "match": Option(choices=("restricted", "hungarian", "one_to_many")),
    "box_loss_on": Option(choices=("candidates", "matched")), "w_giou": _WEIGHT, "centerness_weight": _WEIGHT,
    "class_denorm": Option(choices=("all", "set", "mixed", "mixed_2x")),
    "kind": Option(choices=("all", "set", "mixed", "mixed_2x")), "empty": Option(choices=("background", "nothing")),
    "radius": Option(above=0, most=10**6, unit="strides"), "minimum": Option(above=0, most=10**6),
    "norm_factor": Option(above=0, most=1000), "normalizer": Option(choices=("num_objects", "mean")),
    # strategies
    "window": _LAYERS, "start_stage": _LAYERS, "first_stage": Option(least=0, most=200),
    "start": Option(choices=("shared", "init")), "box_source": Option(choices=("main", "own")),
    "first": _PROBABILITY, "last": _PROBABILITY,
    "heads": Option(choices=("atss", "roi"), items=(1, 2)), "head_weight": _WEIGHT,
    # data
    "total_batch_size": _IMAGES, "batch_size": _IMAGES, "num_workers": Option(least=0, most=512, unit="processes"),
    "prefetch_factor": Option(least=1, most=1024, unit="batches"),
    "max_unreadable": Option(least=0, most=10**9, unit="images"), "seed": Option(least=-(2**63 - 1), most=2**63 - 1),
    "prob": Option(least=0, most=1, meaning="probability"), "horizontal": Option(meaning="left-right"),
    "vertical": Option(meaning="top-bottom"),
    "short_edge_length": Option(null=True, least=1, most=16384, items=(1, 1000), unit="pixels"),
    "max_size": _PIXELS, "shape": Option(least=1, most=16384, unit="pixels", meaning="one length, or (height, width)"),
    "crop_size": Option(least=1, most=16384, items=(2, 2), unit="pixels"),
    "crop_type": Option(choices=("absolute_range", "absolute")), "sample_style": Option(choices=("choice", "range")),
    "scale": Option(above=0, most=100, items=(2, 2), ascending=True), "aspect": Option(least=0, most=5),
    "translate": Option(least=0, most=1), "min_visible": _PROBABILITY, "fill": _RGB,
    "brightness": _PROBABILITY, "contrast": _PROBABILITY, "saturation": _PROBABILITY,
    "hue": Option(least=0, most=0.5), "gain": _PROBABILITY, "shift": Option(least=0, most=5), "mean": _RGB, "std": _STD,
    "since": _PROBABILITY, "until": _PROBABILITY, "objects": Option(least=1, most=1000),
    "margin": Option(least=0, most=2, items=(2, 2), ascending=True),
    "min_area": Option(least=0, most=10**8, unit="pixels"),
    "center": Option(above=0, below=1, items=(2, 2), ascending=True),
    "share": Option(least=0, most=1, items=(2, 2), ascending=True),
    # optimizer and schedule
    "lr": _RATE, "base_lr": Option(float | None, above=0, most=100, meaning="learning rate; null = the optimizer's"),
    "adamw": Option(list[str], items=(1, 1000)), "adamw_lr": _RATE, "nesterov": Option(bool),
    "betas": Option(least=0, below=1, items=(2, 2)), "momentum": _SHARE,
    "weight_decay": Option(float | None, least=0, most=10, meaning="weight decay; null = the optimizer's"),
    "model": Option(meaning="given when the model is built"),
    "weight_decay_norm": _DECAY,
    "weight_decay_bias": Option(float | None, least=0, most=10, meaning="weight decay of biases"),
    "bias_lr_factor": Option(float | None, least=0, most=100),
    "factors": _FACTOR, "default": _FACTOR,
    "warmup_iters": Option(least=0, most=10**9, unit="iterations"), "warmup_factor": _PROBABILITY,
    "max_iter": Option(null=True, least=1, most=10**9, unit="iterations"),
    "milestones": Option(list[float], above=0, most=10**9, ascending=True),
    "end": Option(float, above=0, most=10**9),
    "constant": Option(above=0, below=1, meaning="share of the training with factor 1"),
    "end_factor": Option(least=0, most=1, meaning="last factor"), "tail": _SHARE,
}  # fmt: skip

# (class or function, argument): where the name alone says something else.
EXCEPTIONS: dict[tuple[str, str], Option] = {
    ("GroupQueries", "groups"): Option(least=2, most=1024),
    ("DenoisingQueries", "groups"): Option(least=0, most=1024),  # 0: none
    ("SwinTransformer", "num_heads"): Option(least=1, most=1024, items=(4, 4)),
    ("multistep_schedule", "gamma"): Option(above=0, most=1),
    ("Mosaic", "scale"): Option(above=0, most=4, items=(2, 2), ascending=True),  # images are resized by it
    ("MixUp", "scale"): Option(above=0, most=4, items=(2, 2), ascending=True),
    ("CopyBlend", "scale"): Option(above=0, most=4, items=(2, 2), ascending=True),
    ("Detector", "num_classes"): Option(int | None, least=1, most=10**6),
    ("CocoDataset", "json"): Option(null=True),
    ("CocoEvaluator", "json"): Option(null=True),
    ("RoIMatcher", "threshold"): Option(above=0, most=1),
    ("PositionLoss", "gamma"): Option(least=1, most=20),
    ("GIoUAwareLoss", "gamma"): Option(least=1, most=20),
    ("DeltaLoss", "weights"): Option(above=0, most=1000, items=(4, 4)),
    ("GivenMatcher", "source"): Option(choices=("set", "targets")),
    ("Detector", "strategies"): Option(Mapping[str, Any] | None),
    ("get_default_optimizer_params", "overrides"): Option(least=0, most=100),
    ("two_optimizer_params", "overrides"): Option(least=0, most=100),
}

# Arguments of optimizers and schedules of other packages, whose annotations are not relied on.
FOREIGN: dict[str, dict[str, Option]] = {
    "torch.optim.": {
        "lr": _RATE,
        "weight_decay": Option(float, least=0, most=10, meaning="weight decay"),
        "betas": Option(list[float], least=0, below=1, items=(2, 2), meaning="shares of the past in the two moments"),
        "momentum": Option(float, least=0, below=1, meaning="share of the past"),
        "dampening": Option(float, least=0, below=1, meaning="of the momentum"),
        "eps": Option(float, least=0, most=0.1, meaning="added to the denominator"),
        "amsgrad": Option(bool, meaning="the AMSGrad variant"),
        "nesterov": Option(bool, meaning="Nesterov's momentum"),
        "maximize": Option(Literal[False], meaning="losses are minimized"),
        "foreach": Option(bool | None, meaning="one kernel for many parameters; null = where it is faster"),
        "fused": Option(bool | None, meaning="one kernel for the whole step; null = as torch chooses"),
    },
    "fvcore.common.param_scheduler.": {
        "start_value": Option(float, least=0, most=100, meaning="first factor"),
        "end_value": Option(float, least=0, most=100, meaning="last factor"),
        "value": Option(float, least=0, most=100, meaning="the factor"),
    },
}

# (class, argument, argument): no entry of the first may exceed the second.
NOT_ABOVE = {("ResizeShortestEdge", "short_edge_length", "max_size")}

# (class or function, argument) that is given only when the rest is known.
LATE = {("get_default_optimizer_params", "model"), ("two_optimizer_params", "model")}
