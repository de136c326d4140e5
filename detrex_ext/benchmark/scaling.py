"""Many GPUs on paper: what a step of data-parallel training sends, how much of it hides behind the backward pass.

The model: gradients are ready in the reverse order of the parameters, the time of the backward pass divided over parts
by their operations and within a part over its weights. They fill buckets as DDP's do; a bucket travels when it is full
and the one before it is through, as a ring all-reduce: ``2 (N - 1) / N`` of its bytes pass the slowest link, and each
way of the ring between machines costs a latency. What is not through when the backward pass ends is waited for; so are
two collectives of a few numbers (the normalizers of the losses, whether all are finite). Nothing else waits: no slow
reader of data, no rank with a larger batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig
from torch import nn

from ..analysis import summarize
from ..analysis.summary import GIGA, PARTS
from ..runtime import instantiate

MB = 2**20
FIRST, CAP = 1, 25  # MB of DDP's first bucket, and of the others, where train.ddp.bucket_cap_mb is null
SMALL = 2  # collectives of a few bytes that a step waits for


@dataclass(frozen=True)
class Network:
    """What connects GPUs.

    Attributes:
        gbits: Gbit/s of a machine to the others.
        per_machine: GPUs of a machine.
        inside: bytes a second between GPUs of one machine.
        start, hop: seconds that a collective takes beside its bytes: once, and for each way between two machines.
    """

    gbits: float
    per_machine: int = 8
    inside: float = 300e9
    start: float = 30e-6
    hop: float = 10e-6

    def all_reduce(self, count: float, gpus: int) -> float:
        """Seconds of so many bytes over so many GPUs."""
        if gpus == 1:
            return 0.0
        machines = -(-gpus // self.per_machine)
        links = [self.inside] if machines < gpus else []
        links += [self.gbits * 1e9 / 8] if machines > 1 else []
        return 2 * (gpus - 1) / gpus * count / min(links) + self.start + 2 * (machines - 1) * self.hop


@dataclass(frozen=True)
class Work:
    """A step of one GPU.

    Attributes:
        seconds: without any communication; a third of it is the forward pass.
        gradients: (share of the backward pass after which it is ready, bytes) of each, in order.
    """

    seconds: float
    gradients: tuple[tuple[float, int], ...]

    @property
    def sent(self) -> int:
        """Bytes of all gradients."""
        return sum(count for _, count in self.gradients)


def work_of(cfg: DictConfig, batch: int, height: int, width: int, rate: float, seconds: float | None = None) -> Work:
    """The step of a config.

    Args:
        cfg: with ``model.num_classes``; left as it was.
        batch: images of a GPU.
        height: of the images, in pixels.
        width: as ``height``.
        rate: operations a second that the GPU reaches; a step is three forward passes of inference.
        seconds: of a step, where it was measured.
    """
    model = instantiate(cfg.model)
    flops = {part.name: part.gflops * GIGA for part in summarize(model, height, width, batch).parts}
    total = sum(flops.values())
    seconds = 3 * total / rate if seconds is None else seconds
    return Work(seconds, tuple(_ready(model, {name: count / total for name, count in flops.items()})))


def _ready(model: nn.Module, shares: dict[str, float]) -> Iterator[tuple[float, int]]:
    seen: set[int] = set()
    done = 0.0
    for name in reversed(PARTS):
        own = [p for p in getattr(model, name).parameters() if p.requires_grad and id(p) not in seen]
        seen |= {id(p) for p in own}
        count = sum(p.numel() for p in own)
        for p in reversed(own):
            done += shares[name] * p.numel() / count
            yield min(done, 1.0), 4 * p.numel()
        done += 0.0 if own else shares[name]


def buckets(gradients: Sequence[tuple[float, int]], cap: int | None = None) -> list[tuple[float, int]]:
    """The same in DDP's buckets: (share of the backward pass after which it is full, bytes).

    Args:
        gradients: of :class:`Work`.
        cap: MB of each bucket; None = as torch has it, 25 and the first 1.
    """
    made, held = [], 0
    for i, (ready, count) in enumerate(gradients):
        held += count
        full = (FIRST if cap is None and not made else cap or CAP) * MB
        if held >= full or i + 1 == len(gradients):
            made.append((ready, held))
            held = 0
    return made


def simulate(work: Work, gpus: int, network: Network, cap: int | None = None, bytes_each: int = 4) -> dict[str, Any]:
    """One step.

    Args:
        work: of one GPU.
        gpus: of the job.
        network: between them.
        cap: as in :func:`buckets`, which count fp32.
        bytes_each: of a number that travels: 2 where gradients are compressed.

    Returns:
        seconds: of the step; efficiency: that of one GPU over it; hidden: share of the time on the network that the
        backward pass covers.
    """
    forward, backward = work.seconds / 3, 2 * work.seconds / 3
    end = travel = 0.0
    for ready, count in buckets(work.gradients, cap):
        taken = network.all_reduce(count * bytes_each / 4, gpus)
        end = max(end, forward + ready * backward) + taken
        travel += taken
    waited = max(end - work.seconds, 0.0)
    seconds = work.seconds + waited + SMALL * network.all_reduce(64, gpus)
    hidden = 1 - waited / travel if travel else 1.0
    return {"gpus": gpus, "gbits": network.gbits, "seconds": seconds, "efficiency": work.seconds / seconds,
            "hidden": hidden}  # fmt: skip
