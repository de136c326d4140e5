"""Dropout whose random numbers do not dominate a training step on a CPU.

torch draws one number of full precision for every element and keeps them as floats. Here 16 random bits decide, cut
from the same generator's 64, and one byte is kept, or nothing at all behind a ReLU. The probability is thus a multiple
of 2^-16 (0.1 becomes 0.100006), and the scale is exactly that probability's, so that expectations stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .common import eager

LEVELS = 1 << 16
PIECE = 1 << 18  # elements at a time, so that what is drawn stays in a core's cache
THREADS = 8  # torch draws in parallel and this does not: with more it is the faster one


def fits(x: Tensor, p: float, training: bool = True, inplace: bool = False) -> bool:
    """Whether drawing this way is the faster one."""
    return training and 0.0 < p < 1.0 and x.device.type == "cpu" and eager() and torch.get_num_threads() <= THREADS


def dropout(x: Tensor, p: float, training: bool = True, inplace: bool = False) -> Tensor:
    """:func:`detrex_ext.layers.dropout.dropout` in training, of any shape."""
    return _Dropout.apply(x, _level(p), inplace and x.is_contiguous())


def fits_relu_ffn(module: nn.Module, x: Tensor) -> bool:
    """A ReLU, and dropout that draws here."""
    return type(module.activation) is nn.ReLU and fits(x, module.dropout.p, module.training)


def relu_ffn(module: nn.Module, x: Tensor) -> Tensor:
    """:class:`~detrex_ext.layers.mlp.FFN`, (..., dim) -> (..., dim)."""
    return x + module.dropout(module.layers[1](relu_dropout(module.layers[0][0](x), module.dropout.p)))


def relu_dropout(x: Tensor, p: float) -> Tensor:
    """``dropout(relu(x))`` that overwrites ``x`` and keeps only its result for the backward pass."""
    return _ReluDropout.apply(x, _level(p)) if x.is_contiguous() else F.dropout(x.relu_(), p)


def _pieces(size: int) -> Iterator[tuple[slice, Tensor]]:
    """Slices of so many elements and 16 random bits for each of theirs, int16."""
    for start in range(0, size, PIECE):
        count = min(PIECE, size - start)
        bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(1 << 63), None)
        yield slice(start, start + count), bits.view(torch.int16)[:count]


def _level(p: float) -> int:
    """How many of the ``LEVELS`` values of 16 bits drop an element."""
    return min(round(p * LEVELS), LEVELS - 1)


def _scale(drop: int) -> float:
    return LEVELS / (LEVELS - drop)


def keep_mask(x: Tensor, p: float) -> tuple[Tensor, float]:
    """What dropout keeps of a tensor of this shape, bool, and the factor of what is kept."""
    keep, drop = torch.empty(x.shape, dtype=torch.bool, device=x.device), _level(p)
    if not fits(x, p):
        return keep.bernoulli_(1.0 - p), 1.0 / (1.0 - p) if p < 1 else 0.0
    flat = keep.view(-1)
    for piece, bits in _pieces(x.numel()):
        torch.ge(bits, drop - LEVELS // 2, out=flat[piece])
    return keep, _scale(drop)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, drop: int, inplace: bool) -> Tensor:
        out = x if inplace else x.clone(memory_format=torch.contiguous_format)
        keep = torch.empty(x.shape, dtype=torch.bool)
        flat, flat_keep, scale = out.view(-1), keep.view(-1), _scale(drop)
        for piece, bits in _pieces(x.numel()):
            torch.ge(bits, drop - LEVELS // 2, out=flat_keep[piece])
            # by way of bytes, because torch multiplies by booleans one at a time
            flat[piece].mul_(flat_keep[piece].view(torch.uint8).to(x.dtype)).mul_(scale)
        ctx.save_for_backward(keep)
        ctx.scale = scale
        if inplace:
            ctx.mark_dirty(x)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (keep,) = ctx.saved_tensors
        return keep.view(torch.uint8).to(grad.dtype).mul_(grad).mul_(ctx.scale), None, None


class _ReluDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, drop: int) -> Tensor:
        flat, ctx.scale = x.view(-1), _scale(drop)
        for piece, bits in _pieces(x.numel()):
            part = flat[piece].relu_()
            if x.dtype == torch.float32:
                # this operator zeroes where its second argument is at most its third, in one pass
                noise = bits.to(torch.float32)
                torch.ops.aten.threshold_backward.grad_input(part, noise, drop - LEVELS // 2 - 0.5, grad_input=part)
            else:
                part.mul_(bits.ge(drop - LEVELS // 2).view(torch.uint8).to(x.dtype))
            part.mul_(ctx.scale)
        ctx.save_for_backward(x)
        ctx.mark_dirty(x)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        # what is zero was dropped or negative, and both have no gradient
        (out,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(grad, out, 0).mul_(ctx.scale), None
