"""The path of inference, from tensors to sets, is one graph: exported and compiled, on every host that counts nothing
on its way (`-m slow`)."""

from __future__ import annotations

import pytest
import torch

from .hosts import ALL_HOSTS, COUNTED


class Core(torch.nn.Module):
    """Logits and boxes of the last set."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images, valid):
        last = self.model.core(images, valid)[-1]
        return last.logits_BQK, last.boxes_BQ4


@pytest.mark.slow
@pytest.mark.parametrize("how", ["export", "compile"])
@pytest.mark.parametrize("host", [host for host in ALL_HOSTS if host not in COUNTED])
def test_core_is_one_graph(host, how):
    core = Core(ALL_HOSTS[host]().eval()).requires_grad_(False)
    torch.manual_seed(0)
    given = torch.randn(2, 3, 96, 128), torch.tensor([[96.0, 128.0], [64.0, 96.0]])
    other = torch.randn(2, 3, 96, 128), torch.tensor([[80.0, 128.0], [96.0, 112.0]])
    with torch.no_grad():
        if how == "export":
            run = torch.export.export(core, given).module()
        else:
            torch.compiler.reset()
            run = torch.compile(core, backend="aot_eager", fullgraph=True)
        for images in (given, other):
            for found, expected in zip(run(*images), core(*images), strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
