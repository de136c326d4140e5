"""Sets of one shape side by side, so that costs and losses are computed once for all of them.

Shape legend: N sets, B images, Q queries of a set, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detrex_ext.structures import Given, SupervisedSet


@dataclass
class Stack:
    """N supervised sets of one shape.

    Attributes:
        sets: the sets themselves, with their tags and further outputs.
        logits_NBQK: class logits, at least fp32.
        boxes_NBQ4: normalized cxcywh, at least fp32.
        match_boxes_NBQ4: boxes that matchers look at; ``boxes_NBQ4`` itself unless a set names others.
        given: what the source knows of the group; the same for all N.
        progress: of the training when its step begins, 0 to 1; 0 outside of one.
    """

    sets: tuple[SupervisedSet, ...]
    logits_NBQK: Tensor
    boxes_NBQ4: Tensor
    match_boxes_NBQ4: Tensor
    given: Given
    progress: float = 0.0

    @property
    def softmax(self) -> bool:
        """Whether the last class is "no object"."""
        return self.sets[0].softmax

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, B, Q, K)."""
        return tuple(self.logits_NBQK.shape)

    @property
    def device(self) -> torch.device:
        """Where the predictions live."""
        return self.logits_NBQK.device

    def output(self, name: str) -> Tensor:
        """(N, B, Q, ...) further outputs of a name, at least fp32.

        Raises:
            ValueError: the sets have none of that name.
        """
        if any(name not in s.outputs for s in self.sets):
            known = ", ".join(sorted(self.sets[0].outputs)) or "none"
            raise ValueError(f"{self.name(0)} has no output '{name}' (it has {known}): this rule is for another host")
        return _stack([s.outputs[name] for s in self.sets])

    def name(self, index: int) -> str:
        """Tags of one set, for messages."""
        return tags(self.sets[index])


def tags(s: SupervisedSet) -> str:
    """Group, path and stage of a set, for messages."""
    return f"group '{s.group}', path '{s.path}', stage {s.stage}"


def stack_key(s: SupervisedSet) -> tuple:
    """Sets with equal keys (and one rule) may be stacked."""
    given = (s.given.scale, s.given.sets, *(id(x) for x in (s.given.pairs, s.given.prior, s.given.valid_BQ)))
    return (tuple(s.logits_BQK.shape), s.softmax, s.match_boxes_BQ4 is None, *given)


def stack_sets(sets: Sequence[SupervisedSet], progress: float = 0.0) -> Stack:
    """Stack N sets of equal :func:`stack_key`; half precision becomes fp32, a single set is not copied."""
    boxes = _stack([s.boxes_BQ4 for s in sets])
    seen = [s.match_boxes_BQ4 for s in sets]
    match_boxes = boxes if seen[0] is None else _stack(seen)
    return Stack(tuple(sets), _stack([s.logits_BQK for s in sets]), boxes, match_boxes, sets[0].given, progress)


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    x = tensors[0][None] if len(tensors) == 1 else torch.stack(list(tensors))
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
