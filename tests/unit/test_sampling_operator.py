"""Deformable sampling as one operator of a compiled or exported graph, and which backend such a graph gets."""

from __future__ import annotations

import types

import pytest
import torch
from no_values import without_values
from sampled import SHAPES, case
from torch._subclasses.fake_tensor import FakeTensorMode

from detrex_ext.layers import ms_deform_backends
from detrex_ext.layers.ms_deform_attn import ms_deform_attn

ODD = SHAPES["odd"]
HW = [size for pair in ODD for size in pair]
NAME = "detrex_ext.ms_deform_cpu"


class Sampling(torch.nn.Module):
    def __init__(self, backend="cpu"):
        super().__init__()
        self.backend = backend

    def forward(self, value, at, weight):
        return ms_deform_attn(value, ODD, at, weight, self.backend) + 1


def operators(graph):
    """Ours, in a graph and those within it."""
    nodes = [n for m in graph.modules() if isinstance(m, torch.fx.GraphModule) for n in m.graph.nodes]
    return [str(node.target) for node in nodes if "detrex_ext" in str(node.target)]


def exporting_is_told_apart():
    return hasattr(torch.compiler, "is_exporting")


@pytest.mark.parametrize("of", [(0, 1, 2), (2,)])
def test_it_is_what_torch_expects(of):
    inputs = [x.detach().requires_grad_(i in of) for i, x in enumerate(case(ODD, T=5))]
    torch.library.opcheck(torch.ops.detrex_ext.ms_deform_cpu.default, (*inputs, HW))


def test_its_backward_pass_is_what_torch_expects():
    inputs, grad = [x.detach() for x in case(ODD, T=5)], torch.ones(2, 5, 16, dtype=torch.float64)
    for wanted in ([True] * 3, [False, False, True]):
        given = (*inputs, grad, HW, wanted)
        found = torch.ops.detrex_ext.ms_deform_cpu_backward(*given)
        assert [x.numel() > 0 for x in found] == wanted
        torch.library.opcheck(
            torch.ops.detrex_ext.ms_deform_cpu_backward.default, given, test_utils=("test_schema", "test_faketensor")
        )


@pytest.mark.parametrize("size", [5, 8])
def test_compiled_it_is_one_node_and_gives_the_same(size):
    graphs = []

    def keep(graph, example):
        graphs.append(graph)
        return graph

    torch.compiler.reset()
    inputs = case(ODD, T=size)
    run = torch.compile(Sampling(), backend=keep, fullgraph=True)
    found, expected = run(*inputs), Sampling()(*inputs)
    assert type(expected.grad_fn.next_functions[0][0]).__name__ == "_ByHandBackward"
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    grads = (torch.autograd.grad(x.square().sum(), inputs) for x in (found, expected))
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)
    assert len(graphs) == 1 and operators(graphs[0]) == [NAME]


@pytest.mark.skipif(not exporting_is_told_apart(), reason="this torch exports no region without autocast")
def test_exported_it_is_one_node_where_asked_for():
    inputs = tuple(x.detach() for x in case(ODD, T=5))
    exported = torch.export.export(Sampling(), inputs)
    assert operators(exported.graph_module) == [f"{NAME}.default"]
    torch.testing.assert_close(exported.module()(*inputs), Sampling()(*inputs))
    assert operators(torch.export.export(Sampling("auto"), inputs).graph_module) == []


def test_sizes_are_known_without_values_and_values_come_after():
    """What is remembered about the sizes of maps is not from there."""
    shapes = ((3, 2), (1, 7))
    with FakeTensorMode():
        value, at, weight = (torch.empty(x.shape, requires_grad=True) for x in case(shapes, T=4))
        out = ms_deform_attn(value, shapes, at, weight, "cpu")
        grads = torch.autograd.grad(out.sum(), (value, at, weight))
        assert out.shape == (2, 4, 16) and [g.shape for g in grads] == [value.shape, at.shape, weight.shape]
    value, at, weight = case(shapes, T=4)
    torch.testing.assert_close(*(ms_deform_attn(value, shapes, at, weight, name) for name in ("cpu", "torch")))


def test_autocast_leaves_it_alone():
    value, at, weight = (x.detach().float() for x in case(ODD, T=5))
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.ops.detrex_ext.ms_deform_cpu(value, at, weight, HW)
    assert torch.equal(found, torch.ops.detrex_ext.ms_deform_cpu(value, at, weight, HW))


def test_a_second_derivative_is_refused():
    value, at, weight = case(ODD, T=5)
    for run in (lambda: ms_deform_attn(value, ODD, at, weight, "cpu"),
                lambda: torch.ops.detrex_ext.ms_deform_cpu(value, at, weight, HW)):  # fmt: skip
        (grad,) = torch.autograd.grad(run().square().sum(), at, create_graph=True)
        with pytest.raises(RuntimeError):
            torch.autograd.grad(grad.sum(), at)


@pytest.fixture
def on_a_gpu(monkeypatch):
    monkeypatch.setattr(ms_deform_backends, "_triton_works", lambda device, dtype: device.type == "cuda")
    return types.SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32, requires_grad=True)


def test_a_gpu_told_to_be_deterministic_gets_what_is(on_a_gpu):
    assert ms_deform_backends.choose(on_a_gpu) == "triton"
    try:
        torch.use_deterministic_algorithms(True)
        assert ms_deform_backends.choose(on_a_gpu) == "gather"
        with torch.no_grad():
            assert ms_deform_backends.choose(on_a_gpu) == "triton"
        on_a_gpu.requires_grad = False  # the gradients of points alone are summed in order
        assert ms_deform_backends.choose(on_a_gpu) == "triton"
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("backend", ["gather", "torch"])
def test_torchs_own_operators_run_where_the_tensors_are(backend):
    with without_values():
        value, at, weight = (torch.empty(x.shape, device="cuda", requires_grad=True) for x in case(ODD, T=4))
        out = ms_deform_attn(value, ODD, at, weight, backend)
        assert out.device.type == "cuda" and out.shape == (2, 4, 16)


@pytest.mark.skipif(not exporting_is_told_apart(), reason="this torch does not tell compiling and exporting apart")
def test_a_graph_compiled_for_a_gpu_keeps_the_kernel_as_one_operator(on_a_gpu):
    pytest.importorskip("triton")
    seen = []

    def keep(graph, example):
        seen.append(operators(graph))
        return graph

    with without_values():
        value, at, weight = (torch.empty(x.shape, device="cuda", requires_grad=True) for x in case(ODD, T=4))
        torch.compiler.reset()
        out = torch.compile(Sampling("auto"), backend=keep, fullgraph=True)(value.bfloat16(), at, weight)
        assert seen == [["detrex_ext.ms_deform_triton"]]
        assert out.dtype == torch.bfloat16 and out.shape == (2, 4, 16)
