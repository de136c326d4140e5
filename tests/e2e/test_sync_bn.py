"""Batch norm with the statistics of all processes, on CPUs."""

from __future__ import annotations

import copy

import torch
import torch.distributed as dist
from training import start_process

from detrex_ext.modeling.backbones.blocks import make_norm


def norms():
    torch.manual_seed(0)
    norm = make_norm("SyncBN", 3).double()
    torch.nn.init.uniform_(norm.weight)
    return norm, torch.randn(4, 3, 5, 7, dtype=torch.float64)


def on_rank(rank, folder):
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    norm, x = norms()
    part = x[3 * rank : 3 + rank].clone().requires_grad_()  # three images and one
    y = norm(part)
    (y.sin() * part.detach()).sum().backward()
    torch.save((y.detach(), part.grad, norm.weight.grad, dict(norm.named_buffers())), f"{folder}/{rank}.pth")
    dist.destroy_process_group()


def test_statistics_are_of_all_processes_on_cpus_too(tmp_path):
    processes = [start_process(on_rank, rank, tmp_path) for rank in range(2)]
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    first, second = (torch.load(tmp_path / f"{rank}.pth") for rank in range(2))
    norm, x = norms()
    plain = torch.nn.BatchNorm2d(3).double()
    plain.load_state_dict(copy.deepcopy(norm.state_dict()))
    y = plain(x.requires_grad_())
    (y.sin() * x.detach()).sum().backward()
    torch.testing.assert_close(torch.cat([first[0], second[0]]), y.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.cat([first[1], second[1]]), x.grad, rtol=0, atol=1e-12)
    torch.testing.assert_close(first[2] + second[2], plain.weight.grad, rtol=0, atol=1e-12)
    for name, value in plain.named_buffers():
        assert torch.equal(first[3][name], second[3][name])
        torch.testing.assert_close(first[3][name], value, rtol=0, atol=1e-12)
