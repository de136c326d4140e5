"""What a matcher is, and how problems that need the host share one transfer.

Shape legend: N sets, B images, Q queries of a set, P pairs, G objects of the batch (flat).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detrex_ext.structures import Assignment, Pairs, SupervisedSet, Targets

from .stack import Stack, stack_sets


@dataclass
class HostProblem:
    """An assignment that is decided on the host.

    Attributes:
        tensors: what the decision needs, on whatever device.
        solve: from the same as arrays, the pairs as int64 (4, P): set, image, query, flat object.
    """

    tensors: list[Tensor]
    solve: Callable[[list[np.ndarray]], np.ndarray]


class Matcher:
    """Base of all matchers: :meth:`match` for this package, a call for detrex's protocol."""

    def match(self, stack: Stack, targets: Targets) -> Assignment | HostProblem:
        """Assign queries to objects for every set of a stack, without gradients.

        Args:
            stack: N sets, logits (N, B, Q, K); ``stack.given`` holds what their source knows.
            targets: the batch's objects, on the same device.

        Returns:
            The assignment, or a problem for :func:`resolve` where the host has to decide.
        """
        raise NotImplementedError

    @torch.no_grad()
    def __call__(
        self, outputs: Mapping[str, Tensor], targets: Sequence[Mapping[str, Tensor]]
    ) -> list[tuple[Tensor, Tensor]]:
        """The matcher protocol of detrex, so that its criterion can use this matcher unchanged.

        Args:
            outputs: ``pred_logits`` (B, Q, K) and ``pred_boxes`` (B, Q, 4) normalized cxcywh.
            targets: per image ``labels`` (n,) int64 and ``boxes`` (n, 4) normalized cxcywh.

        Returns:
            Per image (query indices, object indices), int64 on the CPU, queries ascending.
        """
        logits, boxes = outputs["pred_logits"], outputs["pred_boxes"]
        stack = stack_sets([SupervisedSet(logits, boxes, stage=0)])
        sizes = torch.zeros(len(targets), 2, device=logits.device)
        ours = Targets(tuple(t["labels"] for t in targets), tuple(t["boxes"] for t in targets), sizes)
        assignment = resolve([self.match(stack, ours)], torch.device("cpu"))[0]
        return _per_image(assignment.cls.to(torch.device("cpu")), ours.counts)


def _per_image(pairs: Pairs, counts: list[int]) -> list[tuple[Tensor, Tensor]]:
    found, start = [], 0
    for image, count in enumerate(counts):
        mine = pairs.img_P == image
        mine = mine if pairs.valid_P is None else mine & pairs.valid_P
        query, gt = pairs.query_P[mine], pairs.gt_P[mine] - start
        order = query.argsort(stable=True)
        found.append((query[order], gt[order]))
        start += count
    return found


def resolve(answers: Sequence[Assignment | HostProblem], device: Any) -> list[Assignment]:
    """Decide all host problems of a step: one copy from the device, one copy back, whatever their number and sizes.

    Args:
        answers: what matchers returned.
        device: where the pairs are wanted.
    """
    problems = [a for a in answers if isinstance(a, HostProblem)]
    arrays = iter(_to_host([t for p in problems for t in p.tensors]))
    solved = [p.solve([next(arrays) for _ in p.tensors]) for p in problems]
    pairs = iter(_to_device(solved, torch.device(device)))
    return [_same(next(pairs)) if isinstance(a, HostProblem) else a for a in answers]


def _same(pairs: Pairs) -> Assignment:
    return Assignment(cls=pairs, box=pairs)


def _to_host(tensors: list[Tensor]) -> list[np.ndarray]:
    """Arrays of the tensors; those on an accelerator travel as the bytes of one buffer."""
    if _on_host(tensors):
        return [t.numpy() for t in tensors]
    buffer = device_to_host(torch.cat([t.contiguous().view(-1).view(torch.uint8) for t in tensors])).numpy()
    arrays, start = [], 0
    for t in tensors:
        end = start + t.numel() * t.element_size()
        dtype = torch.empty(0, dtype=t.dtype).numpy().dtype
        arrays.append(np.frombuffer(buffer[start:end].tobytes(), dtype).reshape(t.shape))
        start = end
    return arrays


def _on_host(tensors: list[Tensor]) -> bool:
    return all(t.device.type == "cpu" for t in tensors)


def device_to_host(buffer: Tensor) -> Tensor:
    """The step's one blocking copy: bytes (n,)."""
    return buffer.cpu()


def _to_device(solved: list[np.ndarray], device: torch.device) -> list[Pairs]:
    if not solved:
        return []
    flat = torch.from_numpy(np.concatenate(solved, axis=1))
    if device.type == "cuda":
        flat = flat.pin_memory().to(device, non_blocking=True)
    elif device.type != "cpu":
        flat = flat.to(device)
    return [Pairs(*part) for part in flat.split([s.shape[1] for s in solved], dim=1)]
