"""What the Triton kernels of deformable sampling must do, in Triton's interpreter on a CPU.

It must be on before triton is imported, so ``python interpreted_sampling.py`` is a process of its own: it runs every
function here whose name begins with ``check`` and prints what went wrong in each as JSON; see test_triton_sampling.py.
"""

from __future__ import annotations

import contextlib
import json
import traceback
import warnings
from unittest import mock

import torch
from sampled import SHAPES, assert_same, case, not_a_number_stays_where_it_is, outcome

from detrex_ext.layers import ms_deform_backends
from detrex_ext.layers.ms_deform_attn import ms_deform_attn

ONE, ODD = SHAPES["one"], SHAPES["odd"]
SMALL = ((2, 3), (1, 2))


def check_it_is_found_to_work():
    for dtype in (torch.float32, torch.bfloat16):
        with torch.inference_mode():  # as a first call may be; the answer is kept
            assert ms_deform_backends._triton_works(torch.device("cpu"), dtype)


def check_equals_torch():
    assert_same("triton", SHAPES["grows"], case(SHAPES["grows"], T=3, D=5, K=2), 1e-12)
    assert_same("triton", ONE, case(ONE, B=3, T=17, dtype=torch.float32), 3e-5)


def check_any_number_of_channels():
    for D in (1, 16, 24, 32, 64, 96):
        assert_same("triton", ONE, case(ONE, B=1, T=2, H=2, D=D, K=1), 1e-12)


def check_any_number_of_points():
    for K in (1, 4, 6, 7):
        assert_same("triton", SMALL, case(SMALL, B=1, T=2, H=1, D=4, K=K), 1e-12)


def check_rows_beyond_one_program():
    """More queries than a tile has rows, and a rest."""
    assert_same("triton", ONE, case(ONE, B=2, T=70, H=1, D=32, K=1), 1e-12)


def check_64_bit_offsets():
    from detrex_ext.layers.ms_deform_backends import triton_backend

    with mock.patch.object(triton_backend, "WIDE", 0):
        assert_same("triton", SMALL, case(SMALL, T=3, K=2), 1e-12)


def check_any_tile():
    from detrex_ext.layers.ms_deform_backends import triton_backend

    value, at, weight = (x.detach() for x in case(SMALL, B=1, T=2, K=2))
    grad, results = torch.ones(1, 2, 16, dtype=torch.float64), []
    for cut in (None, (1, 1), (4, 2)):
        out = triton_backend.forward(value, at, weight, SMALL, cut)
        results.append((out, *triton_backend.backward(value, at, weight, grad, SMALL, (True, True, True), cut)))
    for found in results[1:]:
        torch.testing.assert_close(found, results[0])


def check_values_of_half_precision():
    """They are read as they are, and nothing else is rounded before the end."""
    for half in (torch.bfloat16, torch.float16):
        value, at, weight = case(ODD, B=1, T=4, K=1, dtype=torch.float32)
        rounded = value.detach().to(half).requires_grad_()
        want = outcome("torch", ODD, [rounded.detach().float().requires_grad_(), at, weight])
        upstream = torch.randn(want[0].shape, generator=torch.Generator().manual_seed(1)).to(half)
        out = ms_deform_attn(rounded, ODD, at, weight, "triton")
        again = ms_deform_attn(rounded.float(), ODD, at, weight, "torch")
        want = [again.to(half), *torch.autograd.grad(again, (rounded, at, weight), upstream.float())]
        got = [out, *torch.autograd.grad(out, (rounded, at, weight), upstream)]
        assert [x.dtype for x in got] == [half, half, torch.float32, torch.float32]
        steps = 2 * torch.finfo(half).eps
        for w, g, tolerance in zip(want, got, (steps, steps, 1e-5, 1e-5), strict=True):
            torch.testing.assert_close(g, w, rtol=tolerance, atol=1e-5)


def check_half_precision_sums_in_full():
    """In bf16, 256 + 1 is 256."""
    value = torch.ones(1, 1, 1, 1, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.tensor([256.0, *8 * [1.0]])
    for shape in ((1, 1, 1, 1, 9), (1, 9, 1, 1, 1)):
        value.grad = None
        out = ms_deform_attn(value, ((1, 1),), torch.full((*shape, 2), 0.5), weight.view(shape), "triton")
        out.backward(torch.ones_like(out))
        assert out.sum().item() == value.grad.item() == 264


def check_locations_and_weights_in_half_precision():
    sample, inputs = ms_deform_backends.load("triton"), case(SMALL, T=3, K=2, dtype=torch.float32)
    halves = [x.detach().bfloat16().requires_grad_() for x in inputs]
    fulls = [x.detach().float().requires_grad_() for x in halves]
    out, want = sample(halves[0], SMALL, *halves[1:]), sample(fulls[0], SMALL, *fulls[1:])
    grads, wanted = (torch.autograd.grad(x.float().sum(), y) for x, y in ((out, halves), (want, fulls)))
    for got, full in zip((out, *grads), (want, *wanted), strict=True):
        assert got.dtype == torch.bfloat16
        torch.testing.assert_close(got.float(), full, rtol=1e-2, atol=1e-2)


def check_nothing_to_sample():
    for B, T in ((0, 3), (2, 0), (0, 0)):
        inputs = case(SMALL, B=B, T=T, dtype=torch.float32)
        out, *grads = outcome("triton", SMALL, inputs)
        assert out.shape == (B, T, 16) and all(not g.any() for g in grads)
        assert [g.shape for g in grads] == [x.shape for x in inputs]


def check_a_level_without_cells_adds_nothing():
    value, at, weight = case(ONE, T=3, K=1)
    shapes = (*ONE, (0, 5))
    at, weight = (torch.cat([x, x], 3).detach().requires_grad_() for x in (at, weight))
    out, *grads = outcome("triton", shapes, (value, at, weight))
    alone = outcome("torch", ONE, (value, at[:, :, :, :1], weight[:, :, :, :1]))
    torch.testing.assert_close((out, grads[0]), tuple(alone[:2]))
    assert not grads[1][:, :, :, 1].any() and not grads[2][:, :, :, 1].any()


def check_not_a_number_stays_where_it_is():
    not_a_number_stays_where_it_is("triton")


def check_gradients_of_what_is_not_finite():
    """A point at infinity reaches nothing, so it gives nothing; NaN stays with its query."""
    value, at, weight = case(ODD, T=4, K=1)
    with torch.no_grad():
        at[0, 1], at[0, 2], at[1, 3, 0, 0, 0, 0] = float("inf"), float("-inf"), float("nan")
    _, of_value, of_at, of_weight = outcome("triton", ODD, (value, at, weight))
    assert not of_at[0, 1:3].any() and not of_weight[0, 1:3].any()
    assert of_value.isfinite().all() and of_at[0].isfinite().all() and of_at[1, :3].isfinite().all()


def check_gradients_of_some_inputs():
    """As where the memory or the weights are frozen: one of the three alone, or two."""
    for some in ((0,), (1,), (2,), (1, 2), (0, 2)):
        inputs = [x.detach().requires_grad_(i in some) for i, x in enumerate(case(SMALL, B=1, T=3, K=1))]
        wanted = [inputs[i] for i in some]
        grads = [
            torch.autograd.grad(ms_deform_attn(inputs[0], SMALL, *inputs[1:], b).square().sum(), wanted)
            for b in ("triton", "torch")
        ]
        torch.testing.assert_close(*grads)


def check_the_device_of_the_tensors_is_launched_on():
    value, at, weight = case(ONE, T=2, K=1)
    with mock.patch("torch.cuda.device_of", return_value=contextlib.nullcontext()) as chosen:
        ms_deform_attn(value, ONE, at, weight, "triton").sum().backward()
    assert [call.args[0].data_ptr() for call in chosen.call_args_list] == [value.data_ptr()] * 2


def check_memory_that_is_not_contiguous():
    value, at, weight = (x.detach() for x in case(SMALL, T=3, K=2))
    inputs = [x.flip(1).transpose(0, 1).contiguous().transpose(0, 1).requires_grad_() for x in (value, at, weight)]
    assert not any(x.is_contiguous() for x in inputs)
    assert_same("triton", SMALL, inputs, 1e-12)


def check_deterministic_mode_is_refused_for_values():
    value, at, weight = case(SMALL, T=2, K=1)
    try:
        torch.use_deterministic_algorithms(True)
        torch.autograd.grad(ms_deform_attn(value.detach(), SMALL, at, weight, "triton").sum(), (at, weight))
        out = ms_deform_attn(value, SMALL, at, weight, "triton").sum()
        with contextlib.suppress(RuntimeError):
            torch.autograd.grad(out, value, retain_graph=True)
            raise AssertionError("not refused")
        torch.use_deterministic_algorithms(True, warn_only=True)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            torch.autograd.grad(out, value)
        assert any("'gather' it is" in str(w.message) for w in said)
    finally:
        torch.use_deterministic_algorithms(False)


def check_the_operator_is_what_torch_expects():
    value, at, weight = case(SMALL, B=1, T=2, K=1, D=2, dtype=torch.float32)
    hw = [size for pair in SMALL for size in pair]
    for v in (value, value.detach().bfloat16()):
        torch.library.opcheck(torch.ops.detrex_ext.ms_deform_triton.default, (v, at, weight, hw))
    given = [x.detach() for x in (value, at, weight)]
    grad = torch.ones(1, 2, 4)
    torch.library.opcheck(
        torch.ops.detrex_ext.ms_deform_triton_backward.default, (*given, grad, hw, [False, False, True]),
        test_utils=("test_schema", "test_faketensor"),
    )  # fmt: skip


def check_it_runs_in_a_compiled_graph():
    inputs = case(SMALL, T=3, K=2, dtype=torch.float32)
    run = torch.compile(
        lambda v, a, w: ms_deform_attn(v, SMALL, a, w, "triton").sin(), backend="aot_eager", fullgraph=True
    )
    found, expected = run(*inputs), ms_deform_attn(inputs[0], SMALL, *inputs[1:], "triton").sin()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(x.sum(), inputs) for x in (found, expected)))


def run_all() -> dict[str, str]:
    """What went wrong in each check, or ""."""
    wrong = {}
    for name, check in list(globals().items()):
        if name.startswith("check"):
            try:
                check()
                wrong[name] = ""
            except Exception:
                wrong[name] = traceback.format_exc()
    return wrong


if __name__ == "__main__":
    print(json.dumps(run_all()))
