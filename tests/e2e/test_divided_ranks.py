"""Recollection, divided attention, and strategies with parameters on two ranks, one of which has no objects."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from contract.hosts import HOSTS, Both
from torch.nn.parallel import DistributedDataParallel
from training import start_process

from detrex_ext.matching import OneToManyMatcher
from detrex_ext.strategies import DivideAndConquer, MixedSupervision, MultiRoute, QueryRecollection
from detrex_ext.testing import example_batch


def detector(host, strategy):
    torch.manual_seed(0)
    model = HOSTS[host]().train()
    if strategy == "sqr + dac":
        both = Both(QueryRecollection(), DivideAndConquer(OneToManyMatcher(tau=1.5), recollected=True))
    else:  # candidates beyond a cap are drawn, other ones in a batch of another size
        both = Both(MultiRoute(), MixedSupervision(OneToManyMatcher(cap=None, conflict="one_class")))
    model.use({"both": both})
    return model


def backward(model, batch):
    torch.manual_seed(0)
    losses = model(batch)
    sum(losses.values()).backward()
    return losses


def on_rank(rank, host, strategy, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    model = detector(host, strategy)
    losses = backward(DistributedDataParallel(model), example_batch(4, (2, 3, 0, 0))[2 * rank :][:2])
    grads = {name: p.grad for name, p in model.named_parameters()}
    torch.save({"losses": {k: v.detach() for k, v in losses.items()}, "grads": grads}, f"{folder}/{rank}.pth")
    dist.destroy_process_group()


@pytest.mark.parametrize("host", ["deformable++", "dino"])
@pytest.mark.parametrize("strategy", ["sqr + dac", "mr + ms"])
def test_a_rank_without_objects_trains_with_the_others(host, strategy, tmp_path):
    """Losses and gradients are those of the whole batch, whatever the number of ranks."""
    processes = [start_process(on_rank, rank, host, strategy, tmp_path) for rank in range(2)]
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    first, second = (torch.load(tmp_path / f"{rank}.pth") for rank in range(2))
    assert first["losses"].keys() == second["losses"].keys()
    assert all(g is not None and g.isfinite().all() for g in first["grads"].values())
    if host == "dino":  # how many denoising queries there are goes by the rank's own objects
        return
    alone = detector(host, strategy)
    for name, value in backward(alone, example_batch(4, (2, 3, 0, 0))).items():
        mean = (first["losses"][name] + second["losses"][name]) / 2
        torch.testing.assert_close(mean, value.detach(), rtol=1e-5, atol=1e-6)
    for name, p in alone.named_parameters():
        torch.testing.assert_close(first["grads"][name], p.grad, rtol=1e-3, atol=1e-5 * float(p.grad.abs().max() + 1))
