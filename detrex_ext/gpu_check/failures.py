"""The steps `overflow` and `memory`: what a training does where gradients or a batch are too large."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Any

import torch

from detrex_ext.engine import Precision, Trainer
from detrex_ext.engine.optim import build_optimizer
from detrex_ext.errors import UserError
from detrex_ext.modeling.detector import Detector
from detrex_ext.runtime import HookBase

from .models import built, images
from .table import Case, Options, Row, found

_HOST = "DINO R50"
_FIRST_SCALE = 2.0**40  # no gradient in fp16 survives it
_SIZES = {False: (256, 320), True: (64, 96)}


def _batches(net: Detector, size: tuple[int, int]) -> Iterator[list[dict[str, Any]]]:
    while True:
        yield images(net, size=size)


def _trainer(options: Options, size: tuple[int, int], precision: Precision) -> Trainer:
    cfg, net = built(_HOST, quick=options.quick)
    net.to(options.device)
    return Trainer(net, _batches(net, size), build_optimizer(cfg, net), precision=precision, log_period=1)


class _Scales(HookBase):
    """The scale after each step, and whether the step changed a weight."""

    def __init__(self, trainer: Trainer) -> None:
        self.watched = trainer
        self.scales, self.moved = [], []
        self._before = self._weights()

    def _weights(self) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in self.watched.model.parameters() if p.requires_grad])

    def after_step(self) -> None:
        now = self._weights()
        self.scales.append(self.watched.precision.scaler.get_scale())
        self.moved.append(not torch.equal(now, self._before))
        self._before = now


def overflow(options: Options) -> list[Case]:
    """One case."""
    return [Case("fp16, losses scaled far too much", lambda: overflowed(options))]


def overflowed(options: Options, first_scale: float = _FIRST_SCALE) -> Row:
    """Steps whose gradients overflow change nothing but the scale; then the training goes on."""
    precision = Precision(torch.device(options.device).type, True, "fp16")
    kind = torch.device(options.device).type
    precision.scaler = torch.amp.GradScaler(kind, init_scale=first_scale, backoff_factor=2.0**-16)
    trainer = _trainer(options, _SIZES[options.quick], precision)
    watch = _Scales(trainer)
    trainer.register_hooks([watch])
    trainer.train(0, 5)
    skipped = watch.moved.index(True) if True in watch.moved else len(watch.moved)
    wrong = []
    if not skipped:
        wrong.append("the first step was taken, though its gradients must overflow")
    if skipped == len(watch.moved):
        wrong.append(f"no step was taken; the scale is {watch.scales[-1]:g}")
    if not bool(watch._before.isfinite().all()):
        wrong.append("a weight is not finite")
    return found(not wrong, "; ".join(wrong), steps_skipped=skipped, scale_at_the_end=watch.scales[-1])


def memory(options: Options) -> list[Case]:
    """One case."""
    return [Case("a batch that does not fit", lambda: full(options))]


def full(options: Options) -> Row:
    """The message names the batch and what to do; after it a smaller one runs."""
    trainer = _trainer(options, (1024, 1280) if not options.quick else (64, 96), Precision(options.device))
    with _little_memory(trainer.model, trainer.device):
        try:
            trainer.train(0, 1)
            said = ""
        except UserError as error:
            said = str(error)
    wrong = []
    if not said:
        wrong.append("the step did fit, so that nothing was asked")
    elif not all(word in said for word in ("out of GPU memory", "2 images", "accumulate_steps")):
        wrong.append(f"the message was: {said}")
    gc.collect()
    trainer.loader = _batches(trainer.model, _SIZES[True])
    trainer.train(0, 1)
    if not all(bool(p.isfinite().all()) for p in trainer.model.parameters()):
        wrong.append("a weight of the step after it is not finite")
    return found(not wrong, "; ".join(wrong))


@contextlib.contextmanager
def _little_memory(net: Detector, device: torch.device) -> Iterator[None]:
    """Leaves so little memory that the next step does not fit; off CUDA the backbone says that it does not."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(device).total_memory
        share = (torch.cuda.memory_reserved(device) + 64 * 2**20) / total
        torch.cuda.set_per_process_memory_fraction(share, device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
        return

    def refuse(*args: Any) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    hook = net.backbone.register_forward_pre_hook(refuse)
    try:
        yield
    finally:
        hook.remove()
