"""Stages skipped at random on two ranks, each with random numbers of its own."""

from __future__ import annotations

import torch
import torch.distributed as dist
from contract.hosts import HOSTS, LAYERS
from torch.nn.parallel import DistributedDataParallel
from training import start_process

from detrex_ext.strategies import StochasticDepth
from detrex_ext.testing import example_batch


def on_rank(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(rank)
    depth = StochasticDepth(0.5, 0.5)
    plans = [list(depth.plan(range(LAYERS))) for _ in range(20)]
    model = HOSTS["deformable, two-stage"]().train()
    model.use({"stochastic_depth": depth})
    parallel = DistributedDataParallel(model, find_unused_parameters=True)
    stages = []
    for _ in range(4):
        losses = parallel(example_batch(4, (2, 0)))
        sum(losses.values()).backward()
        stages.append(sorted(losses.stats))
    grads = [p.grad for p in model.parameters()]
    torch.save({"plans": plans, "stages": stages, "grads": grads}, f"{folder}/{rank}.pth")
    dist.destroy_process_group()


def test_ranks_skip_the_same_stages(tmp_path):
    processes = [start_process(on_rank, rank, tmp_path) for rank in range(2)]
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    first, second = (torch.load(tmp_path / f"{rank}.pth") for rank in range(2))
    assert first["plans"] == second["plans"] and len({tuple(plan) for plan in first["plans"]}) > 5
    assert first["stages"] == second["stages"] and len({len(names) for names in first["stages"]}) > 1
    for a, b in zip(first["grads"], second["grads"], strict=True):
        assert (a is None) == (b is None) and (a is None or torch.equal(a, b))
