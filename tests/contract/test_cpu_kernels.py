"""The CPU kernels change nothing: a step of every host with them, and in plain torch alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from detrex_ext.layers import cpu
from detrex_ext.layers.adaptive_mixing import AdaptiveMixing
from detrex_ext.layers.attention import attention
from detrex_ext.layers.cpu import blockwise, mixing
from detrex_ext.layers.dropout import dropout
from detrex_ext.layers.mlp import FFN, MLP
from detrex_ext.layers.ms_deform_backends import choose
from detrex_ext.strategies import Strategy

from .hosts import HOSTS
from .steps import assert_same_step, training_step

ROOT = Path(__file__).resolve().parents[2]
OF_HOST = {
    "deformable": {"closed form"},
    "deformable++": {"closed form", "cpu"},
    "dino": {"closed form", "cpu"},
    "detr": set(),
    "dab": {"closed form", "padded values"},
    "adamixer": {"closed form", "blocks of queries", "gather"},
}


@pytest.fixture
def used(monkeypatch):
    """Names of the kernels that ran; blocks are small, so that a narrow model has several."""
    for module in (blockwise, mixing):
        monkeypatch.setattr(module, "ROWS", 4)
        monkeypatch.setattr(module, "LEAST", 8)
    names, plain = set(), cpu.chosen

    def chosen(*args, **kwargs):
        kernel = plain(*args, **kwargs)
        names.add(kernel and kernel.name)
        return kernel

    monkeypatch.setattr(cpu, "chosen", chosen)
    return names


@pytest.mark.parametrize("host", HOSTS)
def test_a_step_with_and_without_them(host, used):
    """Sets, losses and gradients to rounding in double precision; no host draws random numbers here."""
    model, found = HOSTS[host](), []
    for on in (False, True):
        used.clear()
        with cpu.switched(on):
            found.append(training_step(model, Strategy(), (2, 3)))
        assert on or used == {None}
    assert used >= OF_HOST[host.split(",")[0]] | {"blocks of rows"}
    assert_same_step(*found)


def test_each_row_is_used_somewhere():
    """Every kernel of the table, by the arguments that the table's text names."""
    x, wide, learns = torch.randn(1, 2, 5, 4), torch.randn(3000, 4), torch.zeros(5, 5, requires_grad=True)
    prelu, dropped = FFN(4, 8, activation=nn.PReLU()), FFN(4, 8, 0.1)
    value, near, far = torch.zeros(1, 20, 1, 1), torch.zeros(1, 2, 1, 1, 1, 2), torch.zeros(1, 99, 1, 1, 1, 2)
    calls = [
        ("dropout", x, 0.1),
        ("MLP", MLP(4, 8, 2, 2), wide),
        ("FFN", FFN(4, 8), wide),
        ("FFN", prelu, wide[:9]),
        ("FFN", dropped, wide),
        ("attention", x, x, x[..., :3]),
        ("attention", x, x, x, None, 0.1),
        ("attention", x, x, x, learns),
        ("AdaptiveMixing", AdaptiveMixing(4, 2, 2, 2), torch.randn(1, 500, 2, 2, 2), torch.randn(1, 500, 4)),
        ("dense_sigmoid_loss", torch.randn(1, 1, 2, 3), 1.0, 2.0),
        ("ms_deform_attn", value, near),
        ("ms_deform_attn", value, far),
    ]
    with cpu.switched(True):
        found = [(call[0], cpu.chosen(*call).name) for call in calls]
        plain = [("MLP", MLP(4, 8, 2, 2), wide[:9]), ("FFN", FFN(4, 8), wide[:9]), ("attention", x, x, x)]
        assert [cpu.chosen(*call) for call in plain] == [None] * 3
        with torch.no_grad():
            assert cpu.chosen("MLP", MLP(4, 8, 2, 2), wide) is None
    assert found == [(operation, kernel.name) for operation, rows in cpu.KERNELS.items() for kernel in rows]
    with cpu.switched(False):
        assert [cpu.chosen(*call) for call in calls] == [None] * len(calls)


def test_the_text_of_the_table_has_every_row():
    for operation, rows in cpu.KERNELS.items():
        for name in (operation, *(kernel.name for kernel in rows)):
            assert re.search(rf" {re.escape(name)}( |\n)", cpu.__doc__), name


@pytest.mark.parametrize("on", [False, True])
@pytest.mark.parametrize("kind", ["dropout", "FFN", "attention"])
def test_dropout_has_the_same_probability_and_expectation(kind, on):
    torch.manual_seed(0)
    x, ffn = torch.ones(300, 300), FFN(8, 512, 0.5).train()
    with cpu.switched(on), torch.no_grad():
        if kind == "dropout":
            out = dropout(x, 0.25)
            assert (out == 0).float().mean() == pytest.approx(0.25, abs=0.01)
            assert out.mean() == pytest.approx(1.0, abs=0.01)
        elif kind == "attention":  # even weights, and the values are the identity: the output is the map
            zeros = torch.zeros(1, 1, 300, 4)
            out = attention(zeros, zeros, torch.eye(300)[None, None], None, 0.25)
            assert (out == 0).float().mean() == pytest.approx(0.25, abs=0.01)
            assert out.sum(-1).mean() == pytest.approx(1.0, abs=0.01)
        else:
            given = torch.randn(1, 8).expand(4000, 8)
            expected = ffn.eval()(given[:1]) - given[:1]
            change = ffn.train()(given) - given
            assert (change == 0).float().mean() == pytest.approx(0.5, abs=0.02)
            assert (change.mean(0) - expected).abs().max() < 0.05


def test_the_environment_turns_them_off():
    code = "import torch; from detrex_ext.layers.ms_deform_backends import choose; print(choose(torch.zeros(1)))"

    def run(value):
        env = {**os.environ, cpu.SWITCH: value, "PYTHONPATH": str(ROOT)}
        return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)

    with cpu.switched(True):
        assert choose(torch.zeros(1)) == "cpu"
    assert run("0").stdout == "torch\n"
    assert "DETREX_EXT_CPU_KERNELS is 'off'; it must be 1" in run("off").stderr


def test_backward_passes_by_hand_stand_nowhere_else():
    """Whoever reads a layer reads plain torch; a sampling is by hand on every device, and a calculation of memory has
    what stands for a kernel of another one."""
    found = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "detrex_ext").rglob("*.py")
        if "autograd.Function)" in path.read_text(encoding="utf-8")
    }
    elsewhere = {name for name in found if not name.startswith("detrex_ext/layers/cpu/")}
    assert found > elsewhere == {"detrex_ext/layers/sampling_operator.py", "detrex_ext/benchmark/as_on_gpu.py"}
