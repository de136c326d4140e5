"""Kernels made by hand for a training step on a CPU, and the one table that says where each is used.

Everywhere else in the package an operation is written in plain torch, the lines that its formula asks for, under
``@kernels("operation")``. Where the switch is on and a row of ``KERNELS`` fits the arguments, its kernel runs instead;
the first that fits is taken. Values and gradients are those of the plain form up to rounding (dropout draws other
numbers of the same distribution). ``DETREX_EXT_CPU_KERNELS=0`` turns all of them off: every operation is then the plain
one. The default is ``1``.

    operation           plain torch                 kernel             used
    dropout             dropout.dropout             16 random bits     CPU of at most 8 threads, in training, 0 < p < 1
    MLP                 mlp.MLP.forward             blocks of rows     CPU, gradients wanted, 2560 rows or more
    FFN                 mlp.FFN.forward             blocks of rows     the same, ReLU or PReLU, without dropout
                                                    PReLU made again   any device, gradients wanted, without dropout
                                                    ReLU with dropout  where dropout's kernel is used
    attention           attention.attention         padded values      CPU, no dropout, values narrower than queries
                                                    map made again     CPU, with dropout
                                                    map by hand        CPU, a mask that learns
    AdaptiveMixing      adaptive_mixing             blocks of queries  CPU, gradients wanted, 400 queries or more
    dense_sigmoid_loss  criterion.sigmoid           closed form        any device
    ms_deform_attn      ms_deform_backends, torch   gather             CPU, few points on large maps
                                                    cpu                CPU, otherwise

A graph that is compiled, traced or exported gets the plain operations, but for ``attention`` and the closed form.
``ms_deform_attn`` chooses between backends by name, so that other devices have theirs
(:mod:`detrex_ext.layers.ms_deform_backends`); here stand those of a CPU.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from detrex_ext.errors import UserError

from . import attention, blockwise, dropout, focal, gathering, mixing, prelu, sampling

SWITCH = "DETREX_EXT_CPU_KERNELS"
_F = TypeVar("_F", bound=Callable[..., Any])


class Kernel(NamedTuple):
    """One row of the table.

    Attributes:
        name: what it does differently.
        run: takes what the plain operation takes.
        when: whether it is used, of the same arguments.
    """

    name: str
    run: Callable[..., Any]
    when: Callable[..., bool]


KERNELS: dict[str, tuple[Kernel, ...]] = {
    "dropout": (Kernel("16 random bits", dropout.dropout, dropout.fits),),
    "MLP": (Kernel("blocks of rows", blockwise.mlp, blockwise.fits_mlp),),
    "FFN": (
        Kernel("blocks of rows", blockwise.ffn, blockwise.fits_ffn),
        Kernel("PReLU made again", prelu.ffn, prelu.fits),
        Kernel("ReLU with dropout", dropout.relu_ffn, dropout.fits_relu_ffn),
    ),
    "attention": (
        Kernel("padded values", attention.padded, attention.fits_padded),
        Kernel("map made again", attention.dropped, attention.fits_dropped),
        Kernel("map by hand", attention.by_hand, attention.fits_by_hand),
    ),
    "AdaptiveMixing": (Kernel("blocks of queries", mixing.mixing, mixing.fits),),
    "dense_sigmoid_loss": (Kernel("closed form", focal.dense_sigmoid_loss, lambda *_, **__: True),),
    "ms_deform_attn": (
        Kernel("gather", gathering.sample, gathering.fits),
        Kernel("cpu", sampling.sample, sampling.fits),
    ),
}


def _from_environment() -> bool:
    said = os.environ.get(SWITCH, "").strip()
    if said not in ("", "0", "1"):
        raise UserError(f"{SWITCH} is '{said}'; it must be 1 (the default) or 0, which leaves all to torch")
    return said != "0"


_on = _from_environment()


@contextmanager
def switched(on: bool) -> Iterator[None]:
    """Whether kernels are used inside the ``with`` block, whatever the environment says."""
    global _on
    before, _on = _on, on
    try:
        yield
    finally:
        _on = before


def enabled() -> bool:
    """Whether kernels are used at all."""
    return _on


def chosen(operation: str, *args: Any, **kwargs: Any) -> Kernel | None:
    """The kernel that runs for these arguments; None = plain torch."""
    if enabled():
        for kernel in KERNELS[operation]:
            if kernel.when(*args, **kwargs):
                return kernel
    return None


def kernels(operation: str) -> Callable[[_F], _F]:
    """Marks the plain form of an operation, a function or a ``forward``, which a kernel of the table may replace."""

    def mark(plain: _F) -> _F:
        @functools.wraps(plain)
        def call(*args: Any, **kwargs: Any) -> Any:
            kernel = chosen(operation, *args, **kwargs)
            return (plain if kernel is None else kernel.run)(*args, **kwargs)

        return call

    return mark
