"""Optimizers. ``params.model`` is set by the trainer.

A lower learning rate for a part of the model:
``optimizer.params.lr_factor_func = L(LrFactor)(factors={"backbone": 0.1})``, from ``detrex_ext.engine``.
No weight decay on 1-d parameters: ``weight_decay_norm=0, weight_decay_bias=0`` and the biases that torch names
otherwise, ``overrides={"in_proj_bias": {"weight_decay": 0}}``.
"""

import torch

from detrex_ext.runtime import LazyCall as L
from detrex_ext.runtime import get_default_optimizer_params

SGD = L(torch.optim.SGD)(
    params=L(get_default_optimizer_params)(weight_decay_norm=0.0),
    lr=0.02,
    momentum=0.9,
    weight_decay=1e-4,
)

AdamW = L(torch.optim.AdamW)(
    params=L(get_default_optimizer_params)(base_lr="${optimizer.lr}", weight_decay_norm=0.0),
    lr=1e-4,
    betas=(0.9, 0.999),
    weight_decay=0.1,
)
