"""Batch norm whose statistics are those of all processes.

Shape legend: B images, C channels, H, W cells.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class SyncBatchNorm2d(nn.SyncBatchNorm):
    """torch's, which also runs on CPUs and in one process, and on a single cell.

    One value per channel has no variance: with a batch of one image and a map of one cell the running statistics are
    used, as in evaluation, and not updated.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), which stays."""
        if not self.training:
            return super().forward(x)
        together = dist.is_available() and dist.is_initialized() and dist.get_world_size(self.process_group) > 1
        if together:
            return self._of_all_processes(x) if x.device.type == "cpu" else super().forward(x)
        if x.numel() == x.shape[1]:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return _BatchNorm.forward(self, x)

    def _of_all_processes(self, x: Tensor) -> Tensor:
        """On CPUs, where torch has no kernel for it: two sums, the mean's and then the variance's."""
        from torch.distributed.nn.functional import all_reduce  # builds of torch without it have no such module

        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        count = wide.new_tensor([wide.numel() / wide.shape[1]])
        sums = all_reduce(torch.cat([wide.sum((0, 2, 3)), count]), group=self._group())
        total, mean = sums[-1].detach(), sums[:-1] / sums[-1].detach()
        off = wide - mean[:, None, None]
        var = all_reduce(off.square().sum((0, 2, 3)), group=self._group()) / total
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((var * total / (total - 1).clamp(min=1)).to(self.running_var.dtype), self.momentum)
        scale = self.weight * (var + self.eps).rsqrt()
        return (off * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    def _group(self) -> dist.ProcessGroup:
        return self.process_group or dist.group.WORLD
