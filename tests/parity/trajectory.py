"""Twenty steps of training, ours beside another project's."""

from __future__ import annotations

import torch

from detrex_ext.runtime import instantiate

CASES = ("optimizer", "dtype", "tolerance"), [("sgd", torch.float32, 1e-5), ("adamw", torch.float64, 1e-8)]


def assert_same_trajectory(peer, ours, cfg, optimizer, tolerance, losses_of):
    """The total loss of each step from the same weights on the same batches, with clipping.

    ``losses_of(step)`` gives their loss dictionary and ours; ``cfg`` is our config, as ``peer.cfg`` is theirs.
    """
    models = peer.model.train(), ours.train()
    optimizers = [make_optimizer(optimizer, m, c) for m, c in zip(models, (peer.cfg, cfg), strict=True)]
    for step in range(20):
        totals = []
        for model, losses, optim in zip(models, losses_of(step), optimizers, strict=True):
            total = sum(losses.values())
            totals.append(float(total))
            optim.zero_grad()
            total.backward()
            torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], 0.1)
            optim.step()
        assert abs(totals[1] / totals[0] - 1) < tolerance, f"step {step}: {totals}"


def make_optimizer(name, model, cfg):
    """Plain SGD over everything, or the optimizer of the project's own published config."""
    if name == "sgd":
        return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    cfg.optimizer.params.model = model
    return instantiate(cfg.optimizer)
