"""Backends of multi-scale deformable sampling: one contract, many machines.

A backend is a function ``(value_BSHD, shapes, at_BTHLK2, weight_BTHLK) -> (B, T, C)``; see
:func:`detrex_ext.layers.ms_deform_attn.ms_deform_attn`, which prepares types and chooses.

    torch   grid_sample per level: any device, any order of derivative, export. The yardstick of the others.
    gather  one embedding bag per query: on a CPU the fastest for few points on large maps.
    cpu     gathers and scatters as embedding bags: several times faster on a CPU, keeps nothing but its inputs.
    triton  one kernel for all levels on a GPU, nothing to compile at install.
    detrex  detrex's compiled operator, where it is installed.

``gather`` and ``cpu`` are rows of the table of CPU kernels, :mod:`detrex_ext.layers.cpu`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from .. import cpu
from ..cpu.common import Shapes
from . import torch_backend

Sample = Callable[[Tensor, Shapes, Tensor, Tensor], Tensor]

_HERE: dict[str, Sample] = {"torch": torch_backend.sample, **{k.name: k.run for k in cpu.KERNELS["ms_deform_attn"]}}
NAMES = (*_HERE, "triton", "detrex")
FORCE = "DETREX_EXT_MS_DEFORM"


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
    try:
        return importlib.import_module(f"{__name__}.{name}_backend").sample
    except ImportError as e:
        raise RuntimeError(f"backend '{name}' of ms_deform_attn is not usable here: {e}") from e


@functools.cache
def _triton_works(device: torch.device) -> bool:
    """Whether Triton is there and right on this device: it needs a driver and a compiler that a machine may lack."""
    if importlib.util.find_spec("triton") is None:
        return False
    try:
        # the answer serves every later call, whatever the first is in
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
            _compare_triton(device)
    except Exception as e:  # of whatever kind: there is a slower way that always works
        warnings.warn(f"Triton does not work on {device}, deformable attention will be slower: {e}", stacklevel=2)
        return False
    return True


def _compare_triton(device: torch.device) -> None:
    shapes = ((3, 5), (2, 1))
    like = {"device": device, "dtype": torch.float32}
    value = torch.arange(17 * 2 * 8, **like).view(1, 17, 2, 8).sin().requires_grad_()
    at = torch.linspace(-0.17, 1.13, 5 * 2 * 2 * 3 * 2, **like).view(1, 5, 2, 2, 3, 2).requires_grad_()
    weight = at.detach()[..., 0].cos().requires_grad_()
    outs = [load(name)(value, shapes, at, weight) for name in ("torch", "triton")]
    grads = [torch.autograd.grad(out.square().sum(), (value, at, weight)) for out in outs]
    for want, got in zip((outs[0], *grads[0]), (outs[1], *grads[1]), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)


def choose(value_BSHD: Tensor, at_BTHLK2: Tensor | None = None) -> str:
    """The backend ``auto`` stands for.

    It is that of the environment variable ``DETREX_EXT_MS_DEFORM``, or the best for the device and, on a CPU, the
    number of points: few of them are gathered one by one.

    A graph that is being traced, compiled or exported gets ``torch``, which is made of ordinary operators.
    """
    forced = os.environ.get(FORCE, "auto")
    if forced != "auto":
        return forced
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return "torch"
    kind = value_BSHD.device.type
    if kind == "cuda" and _triton_works(value_BSHD.device):
        return "triton"
    kernel = cpu.chosen("ms_deform_attn", value_BSHD, at_BTHLK2)
    return "torch" if kernel is None else kernel.name
