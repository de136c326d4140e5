"""Optimizers. ``params.model`` is set by the trainer.

A lower learning rate for a part of the model:
``optimizer.params.lr_factor_func = L(LrFactor)(factors={"backbone": 0.1})``, from ``detrex_ext.engine``.
No weight decay on 1-d parameters: ``weight_decay_norm=0, weight_decay_bias=0`` and the biases that torch names
otherwise, ``overrides={"in_proj_bias": {"weight_decay": 0}}``.
AdamW for a part of a model and SGD for the rest: ``SGDAndAdamW``, and which part, ``optimizer.params.adamw=[encoder]``.
"""

import torch

from detrex_ext.engine.two_optimizers import SGDAndAdamW as _SGDAndAdamW
from detrex_ext.engine.two_optimizers import two_optimizer_params
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

# adamw_lr is no share of lr: a rate for another batch or another part is stated on its own
SGDAndAdamW = L(_SGDAndAdamW)(
    params=L(two_optimizer_params)(
        adamw=["encoder.encoder."], base_lr="${optimizer.lr}", adamw_lr=1e-4, weight_decay_norm=0.0
    ),
    lr=0.01,
    momentum=0.9,
    weight_decay=1e-4,
    betas=(0.9, 0.999),
)
