"""The step `steps`: a training step of every host with every strategy, on the GPU and on the CPU."""

from __future__ import annotations

import math
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from detrex_ext.modeling.detector import Detector
from detrex_ext.modeling.queries import denoising
from detrex_ext.testing.invariants import as_found

from .models import FAMILIES, ONE_STAGE, STRATEGIES, built, images, in_full_fp32
from .same_random import SameRandom
from .table import Case, Options, Row, found

# relative; where rounding flips a ReLU or the rank of a token, all gradients together move by up to 1e-3
LOSSES, GRADIENTS = 1e-4, 5e-3
_OVERLAYS = {"hybrid": ("hybrid", {"num_extra": 150})}
_QUICK = {"DETR R50": ("bare",), "DINO R50": ("bare", *STRATEGIES)}


def cases(options: Options) -> list[Case]:
    """Each family, bare and under each strategy, small; then one model as published."""
    chosen = {**{host: ("bare", *STRATEGIES) for host in FAMILIES}, **{host: ("bare",) for host in ONE_STAGE}}
    pairs = [(host, name) for host, all_of in (_QUICK if options.quick else chosen).items() for name in all_of]
    made = [Case(f"{host}, {name}", partial(compare, host, name, options)) for host, name in pairs]
    if not options.quick:
        made.append(Case("DINO R50, bare, as published", partial(compare, "DINO R50", "bare", options, small=False)))
    return made


def compare(host: str, strategy: str, options: Options, small: bool = True) -> Row:
    """Losses and gradients of both devices in fp32, then whether those in bf16 are finite."""
    overlays = () if strategy == "bare" else (_OVERLAYS.get(strategy, strategy),)
    _, net = built(host, overlays, small, options.quick)
    _perturb(net)
    batch = images(net, size=(96, 128) if options.quick else (256, 320))
    with as_found(net) as still, in_full_fp32():
        wanted = step(still, batch)
        still.zero_grad(set_to_none=True)
        still.to(options.device)
        got = step(still, batch)
        still.zero_grad(set_to_none=True)
        half = step(still, batch, torch.bfloat16)
    return judged(wanted, got, half)


def _perturb(net: Detector) -> None:
    """No head at its zero start, where all queries cost the same and rounding would choose among them."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.01 * torch.randn_like(p))


def step(net: Detector, batch: list[dict[str, Any]], dtype: torch.dtype = torch.float32) -> tuple[dict, dict]:
    """Losses and gradients by name, on the CPU; drawn numbers are the same wherever the model is."""
    torch.manual_seed(2)
    # a CPU draws new labels for those alone that change, which a GPU would have to be asked for
    with SameRandom(), mock.patch.object(denoising, "eager", lambda: False):
        with torch.autocast(net.device.type, dtype, enabled=dtype != torch.float32):
            losses = net(batch)
        sum(losses.values()).backward()
    grads = {name: p.grad.detach().cpu() for name, p in net.named_parameters() if p.grad is not None}
    return {name: float(value.detach()) for name, value in losses.items()}, grads


def judged(wanted: tuple[dict, dict], got: tuple[dict, dict], half: tuple[dict, dict]) -> Row:
    """The row of three steps, each losses and gradients."""
    wrong = []
    if wanted[0].keys() != got[0].keys() or wanted[1].keys() != got[1].keys():
        odd = sorted({*wanted[0], *wanted[1]} ^ {*got[0], *got[1]})
        return found(False, f"only one of both has {', '.join(odd[:5])}")
    of_losses = {name: abs(got[0][name] - want) / max(abs(want), 1e-6) for name, want in wanted[0].items()}
    worst = _largest(of_losses)
    of_gradients, where = _distance(wanted[1], got[1])
    if not of_losses[worst] <= LOSSES:
        wrong.append(f"{worst} differs by {of_losses[worst]:.2e}")
    if not of_gradients <= GRADIENTS:
        wrong.append(f"gradients differ by {of_gradients:.2e}, most at {where}")
    bad = [name for name, value in half[0].items() if not abs(value) < float("inf")]
    bad += [name for name, grad in half[1].items() if not bool(grad.isfinite().all())]
    if bad:
        wrong.append(f"not finite in bf16: {', '.join(bad[:5])}")
    in_half = abs(sum(half[0].values()) / sum(wanted[0].values()) - 1)
    return found(not wrong, "; ".join(wrong), losses_differ=of_losses[worst], gradients_differ=of_gradients,
                 bf16_total_differs=in_half)  # fmt: skip


def _largest(values: dict[str, float]) -> str:
    """The name of the largest number; NaN is larger than all."""
    return max(values, key=lambda name: float("inf") if math.isnan(values[name]) else values[name])


def _distance(wanted: dict[str, Tensor], got: dict[str, Tensor]) -> tuple[float, str]:
    """Norm of the difference of all gradients over their norm, and the parameter that has most of it."""
    parts = {name: float((got[name] - want).double().norm()) for name, want in wanted.items()}
    total = sum(float(want.double().norm()) ** 2 for want in wanted.values()) ** 0.5
    where = _largest(parts)
    return sum(part**2 for part in parts.values()) ** 0.5 / max(total, 1e-12), where
