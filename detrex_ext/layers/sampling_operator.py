"""A sampling with a backward pass by hand, once as an ``autograd.Function`` and once as an operator of torch.

By itself it runs as the Function, which starts sooner. In a graph that is compiled or exported, and on tensors that are
not plain ones (those without values, above all), it is the operator ``detrex_ext::NAME``: one node, whose sizes and
gradients torch knows without looking into it.

Autocast does not touch the operator: values, locations and weights are read in the types in which they come.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Levels = tuple[tuple[int, int], ...]  # (height, width) of each
Sample = Callable[[Tensor, Sequence[tuple[int, int]], Tensor, Tensor], Tensor]


class Passes(NamedTuple):
    """Both passes of a sampling; tensors as in :mod:`detrex_ext.layers.ms_deform_backends`.

    Attributes:
        forward: (value, at, weight, levels) -> (B, T, C).
        backward: (value, at, weight, gradient of the output, levels, which of the three gradients are wanted) ->
            those, contiguous and in the types of what they are of, None for the others.
        dtype: (value, at) -> type of the output.
    """

    forward: Callable[[Tensor, Tensor, Tensor, Levels], Tensor]
    backward: Callable[[Tensor, Tensor, Tensor, Tensor, Levels, Sequence[bool]], Sequence[Tensor | None]]
    dtype: Callable[[Tensor, Tensor], torch.dtype]


def sampling(name: str, passes: Passes) -> Sample:
    """The function ``(value_BSHD, shapes, at_BTHLK2, weight_BTHLK) -> (B, T, C)``. Differentiable once."""
    operator = _operator(name, passes)

    def sample(value: Tensor, shapes: Sequence[tuple[int, int]], at: Tensor, weight: Tensor) -> Tensor:
        tensors = value, at, weight
        if torch.compiler.is_compiling() or any(type(x) not in _PLAIN for x in tensors):
            return operator(*tensors, [size for hw in shapes for size in hw])
        return _ByHand.apply(passes, tuple((int(h), int(w)) for h, w in shapes), *tensors)

    return sample


_PLAIN = (Tensor, nn.Parameter)


class _ByHand(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, passes: Passes, levels: Levels, value: Tensor, at: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(value, at, weight)
        ctx.passes, ctx.levels = passes, levels
        return passes.forward(value, at, weight, levels)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTC: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *ctx.passes.backward(*ctx.saved_tensors, grad_BTC, ctx.levels, ctx.needs_input_grad[2:])


def _operator(name: str, passes: Passes) -> Callable[..., Tensor]:
    # a schema, because torch 2.4 cannot read annotations that are kept as text
    tensors = "Tensor value, Tensor at, Tensor weight"
    of = torch.library.custom_op(
        f"detrex_ext::{name}",
        lambda value, at, weight, hw: passes.forward(value, at, weight, _levels(hw)),
        mutates_args=(),
        schema=f"({tensors}, SymInt[] hw) -> Tensor",
    )
    back = torch.library.custom_op(
        f"detrex_ext::{name}_backward",
        lambda *given: _present(given[0], passes.backward(*given[:4], _levels(given[4]), given[5])),
        mutates_args=(),
        schema=f"({tensors}, Tensor grad, SymInt[] hw, bool[] wanted) -> (Tensor, Tensor, Tensor)",
    )

    @of.register_fake
    def _(value: Tensor, at: Tensor, weight: Tensor, hw: Sequence[int]) -> Tensor:
        return value.new_empty(*at.shape[:2], value.shape[2] * value.shape[3], dtype=passes.dtype(value, at))

    @back.register_fake
    def _(value: Tensor, at: Tensor, weight: Tensor, grad: Tensor, hw: Sequence[int], wanted: Sequence[bool]) -> Any:
        grads = (x.new_empty(x.shape) if want else None for x, want in zip((value, at, weight), wanted, strict=True))
        return _present(value, grads)

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.hw = inputs[3]

    def gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[:3]
        found = getattr(torch.ops.detrex_ext, f"{name}_backward")(*ctx.saved_tensors, grad, ctx.hw, list(wanted))
        return *(x if want else None for x, want in zip(found, wanted, strict=True)), None

    of.register_autograd(gradients, setup_context=keep)
    return getattr(torch.ops.detrex_ext, name)


def _levels(hw: Sequence[int]) -> Levels:
    return tuple(zip(hw[::2], hw[1::2], strict=True))


def _present(value: Tensor, grads: Any) -> tuple[Tensor, ...]:
    """An operator has no None among its results: an empty tensor stands for it."""
    return tuple(value.new_empty(0) if x is None else x for x in grads)
