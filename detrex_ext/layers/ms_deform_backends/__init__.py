"""Backends of multi-scale deformable sampling: one contract, many machines.

A backend is a function ``(value_BSHD, shapes, at_BTHLK2, weight_BTHLK) -> (B, T, C)``; see
:func:`detrex_ext.layers.ms_deform_attn.ms_deform_attn`, which prepares types and chooses.

    torch   grid_sample per level: any device, any order of derivative, export. The yardstick of the others.
    taps    four gathers per level: for runtimes of exported graphs that have no grid_sample.
    gather  one embedding bag per query: on a CPU the fastest for few points on large maps.
    cpu     gathers and scatters as embedding bags: several times faster on a CPU, keeps nothing but its inputs.
    triton  one kernel for all levels on a GPU, nothing to compile at install; in half precision for values that are.
    detrex  detrex's compiled operator, where it is installed.

``cpu`` and ``triton`` are one operator of a graph that is compiled or exported
(:mod:`detrex_ext.layers.sampling_operator`), the others are made of torch's own. ``gather`` and ``cpu`` are rows of the
table of CPU kernels, :mod:`detrex_ext.layers.cpu`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from .. import cpu
from ..cpu.common import Shapes, exporting
from . import taps_backend, torch_backend

Sample = Callable[[Tensor, Shapes, Tensor, Tensor], Tensor]

_HERE: dict[str, Sample] = {"torch": torch_backend.sample, **{k.name: k.run for k in cpu.KERNELS["ms_deform_attn"]}}
NAMES = (*_HERE, "triton", "detrex", "taps")
_HERE["taps"] = taps_backend.sample
_imported: dict[str, Sample] = {}
FORCE = "DETREX_EXT_MS_DEFORM"
_exported = "torch"


@contextmanager
def exported_as(name: str) -> Iterator[None]:
    """The backend that graphs exported inside the ``with`` block are made of: ``torch`` or ``taps``."""
    global _exported
    before, _exported = _exported, name
    try:
        yield
    finally:
        _exported = before


def load(name: str) -> Sample:
    """The function of a backend; what it needs is imported here and not before.

    Raises:
        ValueError: an unknown name.
        RuntimeError: what the backend needs is not installed.
    """
    if name in _HERE:
        return _HERE[name]
    if name not in NAMES:
        raise ValueError(f"unknown backend '{name}' of ms_deform_attn: one of auto, {', '.join(NAMES)}")
    _import(name)
    return _imported[name]


def _import(name: str) -> None:
    if name not in _imported:
        try:
            _imported[name] = importlib.import_module(f"{__name__}.{name}_backend").sample
        except ImportError as e:
            raise RuntimeError(f"backend '{name}' of ms_deform_attn is not usable here: {e}") from e


@functools.cache
def _try_triton(device: torch.device, dtype: torch.dtype) -> bool:
    if importlib.util.find_spec("triton") is None:
        return False
    try:
        # the answer serves every later call, whatever the first is in
        with _disable_current_modes(), torch.inference_mode(False), torch.enable_grad():
            with torch.autocast(device.type, enabled=False):
                _compare_triton(device, dtype)
    except Exception as e:  # of whatever kind: there is a slower way that always works
        warnings.warn(f"Triton does not work on {device}, deformable attention will be slower: {e}", stacklevel=3)
        return False
    return True


def _triton_works(device: torch.device, dtype: torch.dtype = torch.float32) -> bool:
    """Whether Triton is there and right on this device for values of a type.

    It needs a driver and a compiler, which a machine may lack, and for some types a newer GPU.
    """
    return _try_triton(device, dtype)


# torch.compile calls them and looks at what they give alone; torch.compiler.assume_constant_result imports for a second
_triton_works._dynamo_marked_constant = _import._dynamo_marked_constant = True


def _compare_triton(device: torch.device, dtype: torch.dtype) -> None:
    shapes = ((3, 5), (2, 1))
    like = {"device": device, "dtype": torch.float64 if dtype == torch.float64 else torch.float32}
    value = torch.arange(17 * 2 * 8, **like).view(1, 17, 2, 8).sin().to(dtype).requires_grad_()
    at = torch.linspace(-0.17, 1.13, 5 * 2 * 2 * 3 * 2, **like).view(1, 5, 2, 2, 3, 2).requires_grad_()
    weight = at.detach()[..., 0].cos().requires_grad_()
    outs = [load(name)(value, shapes, at, weight).to(at.dtype) for name in ("torch", "triton")]
    grads = [torch.autograd.grad(out.square().sum(), (value, at, weight)) for out in outs]
    half = dtype.itemsize < 4
    for want, got in zip((outs[0], *grads[0]), (outs[1], *grads[1]), strict=True):
        scale = want.abs().max().item()
        torch.testing.assert_close(got, want, rtol=1e-3, atol=scale * 3e-2 if half else 1e-4)


def choose(value_BSHD: Tensor, at_BTHLK2: Tensor | None = None) -> str:
    """The backend ``auto`` stands for.

    It is that of the environment variable ``DETREX_EXT_MS_DEFORM``, or the best for the device and, on a CPU, the
    number of points: few of them are gathered one by one.

    A graph that is traced or exported gets ``torch``, or what :func:`exported_as` says, made of ordinary operators, so
    that it runs where this package is not; one that is compiled gets ``torch`` on a CPU. Where torch is told to be
    deterministic and values have gradients, a GPU gets ``gather``, which sorts what ``triton`` sums in any order.
    """
    forced = os.environ.get(FORCE, "auto")
    if forced != "auto":
        return forced
    if exporting():
        return _exported
    if value_BSHD.device.type == "cuda":
        if torch.are_deterministic_algorithms_enabled() and torch.is_grad_enabled() and value_BSHD.requires_grad:
            return "gather"
        if _triton_works(value_BSHD.device, value_BSHD.dtype):
            return "triton"
    if torch.compiler.is_compiling():
        return "torch"
    kernel = cpu.chosen("ms_deform_attn", value_BSHD, at_BTHLK2)
    return "torch" if kernel is None else kernel.name
