"""Every backend of multi-scale deformable sampling computes what grid_sample computes."""

from __future__ import annotations

import pytest
import torch
from sampled import SHAPES, assert_same, case, not_a_number_stays_where_it_is, outcome

from detrex_ext.layers import ms_deform_backends
from detrex_ext.layers.cpu import sampling, switched
from detrex_ext.layers.ms_deform_attn import MSDeformAttn, ms_deform_attn


@pytest.mark.parametrize("backend", ["cpu", "gather", "taps"])
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 3e-5)])
def test_cpu_equals_torch(name, dtype, tolerance, backend):
    assert_same(backend, SHAPES[name], case(SHAPES[name], dtype=dtype), tolerance)


@pytest.mark.parametrize("B", [1, 2, 3, 5])
def test_cpu_any_batch(B):
    assert_same("cpu", SHAPES["odd"], case(SHAPES["odd"], B=B), 1e-12)


@pytest.mark.parametrize("B, T, H, D, K", [(2, 0, 2, 8, 3), (1, 1, 1, 1, 1), (2, 5, 3, 32, 4), (1, 40, 8, 5, 2)])
@pytest.mark.parametrize("backend", ["cpu", "gather", "taps"])
def test_cpu_any_size(B, T, H, D, K, backend):
    assert_same(backend, SHAPES["odd"], case(SHAPES["odd"], B, T, H, D, K), 1e-12)


def test_cpu_gradients_equal_differences():
    inputs = case(((3, 5), (2, 2)), B=2, T=3, H=2, D=3, K=2, spread=0.6)
    assert torch.autograd.gradcheck(lambda *x: ms_deform_attn(x[0], ((3, 5), (2, 2)), x[1], x[2], "cpu"), inputs)


def test_cpu_on_borders_and_cell_centers():
    """On cell centers, map borders and one cell outside, where the bilinear rule changes pieces: values agree."""
    shapes = ((4, 4), (2, 8))
    value, _, _ = case(shapes, T=1, K=1)
    ticks = torch.tensor([-1.0, -0.125, 0.0, 0.125, 0.5, 0.875, 1.0, 1.125, 2.0], dtype=torch.float64)
    grid = torch.cartesian_prod(ticks, ticks)[None, :, None, None, None]
    at = grid.expand(2, -1, 2, 2, 1, 2).clone().requires_grad_()
    weight = torch.ones(at.shape[:-1], dtype=torch.float64, requires_grad=True)
    for backend in ("cpu", "gather"):
        assert_same(backend, shapes, [value, at, weight], 1e-12)
    # taps is for exported graphs: where the rule changes pieces it may take the other one's slope
    outs = [ms_deform_attn(value, shapes, at, weight, backend) for backend in ("torch", "taps")]
    torch.testing.assert_close(*outs, rtol=0, atol=1e-12)


def test_cpu_values_of_half_precision_are_sampled_in_full():
    value, at, weight = case(SHAPES["odd"], dtype=torch.float32)
    half = value.detach().bfloat16().requires_grad_()
    want, wanted, *_ = outcome("torch", SHAPES["odd"], [half.detach().float().requires_grad_(), at, weight])
    got, grad, *_ = outcome("cpu", SHAPES["odd"], [half, at, weight])
    assert got.dtype == torch.float32 and grad.dtype == torch.bfloat16
    assert (got - want).abs().max() < 1e-4
    assert (grad.float() - wanted).abs().max() < 1e-2 * wanted.abs().max()


def test_cpu_gradient_of_one_input_only():
    value, at, weight = case(SHAPES["odd"])
    for i in range(3):
        inputs = [x.detach().requires_grad_(j == i) for j, x in enumerate((value, at, weight))]
        grads = [
            torch.autograd.grad(ms_deform_attn(inputs[0], SHAPES["odd"], *inputs[1:], b).square().sum(), inputs[i])[0]
            for b in ("cpu", "torch")
        ]
        torch.testing.assert_close(*grads)


@pytest.mark.parametrize("backend", ["cpu", "gather", "taps"])
def test_cpu_not_a_number_stays_where_it_is(backend):
    not_a_number_stays_where_it_is(backend)


def test_cpu_keeps_only_its_inputs():
    value, at, weight = case(SHAPES["square"])
    kept = []

    def pack(x):
        kept.append(x.untyped_storage().data_ptr())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        ms_deform_attn(value, SHAPES["square"], at, weight, "cpu")
    assert set(kept) == {x.untyped_storage().data_ptr() for x in (value, at, weight)}


def test_choice(monkeypatch):
    value, at, weight = (x.detach() for x in case(SHAPES["odd"]))
    few = value.new_zeros(1, 1 + 4 * at[0, :, 0, ..., 0].numel(), 2, 8)
    with switched(True):
        assert ms_deform_backends.choose(value) == "cpu"
        assert ms_deform_backends.choose(value, at) == "cpu"
        assert ms_deform_backends.choose(few, at) == "gather"
    with switched(False):
        assert ms_deform_backends.choose(few, at) == "torch"
    monkeypatch.setenv("DETREX_EXT_MS_DEFORM", "torch")
    assert ms_deform_backends.choose(value) == "torch"
    with pytest.raises(ValueError, match="unknown backend 'mine'.*auto, torch, gather, cpu, triton, detrex"):
        ms_deform_attn(value, SHAPES["odd"], at, weight, "mine")


def test_triton_that_fails_is_not_chosen():
    """Without its interpreter Triton cannot run on a CPU: noticed, said, and done without."""
    with pytest.warns(UserWarning, match="Triton"):
        assert not ms_deform_backends._triton_works(torch.device("cpu"))


def test_padding_never_reaches_a_query():
    """Values at padded tokens do not matter, whatever they are."""
    torch.manual_seed(0)
    layer = MSDeformAttn(16, 2, 1, 2)
    torch.nn.init.normal_(layer.sampling_offsets.weight)
    memory = torch.randn(1, 12, 16)
    pad = torch.zeros(1, 12, dtype=torch.bool)
    pad[0, 8:] = True
    x, center, unit = torch.randn(1, 5, 16), torch.rand(1, 5, 1, 2), torch.full((1, 1, 1, 2), 0.1)
    other = memory.clone()
    other[pad] = 7.0
    outs = [layer(x, None, center, unit, layer.project(m, pad), ((3, 4),)) for m in (memory, other)]
    assert torch.equal(*outs)


@pytest.mark.parametrize("points", [0, 2 * 13 * 2 * 3 * 3, 1 << 16])
def test_cpu_in_blocks_of_images(monkeypatch, points):
    monkeypatch.setattr(sampling, "POINTS", points)
    assert_same("cpu", SHAPES["odd"], case(SHAPES["odd"], B=5), 1e-12)


def test_cpu_images_of_a_block_do_not_touch_each_other():
    """What is not finite on one image stays there, though a block's images lie on one canvas."""
    shapes = SHAPES["odd"]
    alone, inputs = outcome("cpu", shapes, case(shapes, B=3)), case(shapes, B=3)
    with torch.no_grad():
        inputs[0][1] = float("inf")
        inputs[1][1, 3] = float("nan")
        inputs[2][1, 4] = float("-inf")
    for want, got in zip(alone, outcome("cpu", shapes, inputs), strict=True):
        torch.testing.assert_close(got[::2], want[::2], rtol=1e-12, atol=1e-12)
        assert not got[1].isfinite().all()
