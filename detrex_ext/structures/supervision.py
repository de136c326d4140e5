"""What is supervised, by what, and which query answers for which object.

Shape legend: B images, Q queries of a set, K classes, N sets, P pairs, G objects of the whole batch (flat).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass
class Pairs:
    """Matched (query, object) pairs, flat.

    Attributes:
        set_P, img_P, query_P: int64, which set of a stack, which image, which query of the set.
        gt_P: int64, index into the batch's flat objects (``Targets.labels_G``).
        weight_P: float weight of the pair; None means ones.
        valid_P: bool, False for an empty place that is no pair: matchers that decide on the device do not know the
            number of pairs on the host. None means that all are pairs.
    """

    set_P: Tensor
    img_P: Tensor
    query_P: Tensor
    gt_P: Tensor
    weight_P: Tensor | None = None
    valid_P: Tensor | None = None

    def __len__(self) -> int:
        return self.set_P.shape[0]

    def to(self, device: torch.device) -> Pairs:
        """The same pairs on a device."""
        index = (self.set_P, self.img_P, self.query_P, self.gt_P)
        return Pairs(*(x if x is None else x.to(device) for x in (*index, self.weight_P, self.valid_P)))

    @staticmethod
    def empty(device: torch.device | str = "cpu") -> Pairs:
        """No pairs."""
        return Pairs(*(torch.zeros(0, dtype=torch.int64, device=device) for _ in range(4)))


@dataclass
class Prior:
    """What rules that look at places need of a token: its point or box, stride, and candidate objects.

    Attributes:
        boxes_BQ4: normalized cxcywh boxes that queries begin with (DETA's rule, RoI rule), or None.
        points_BQ2: normalized points (FCOS rule), or None.
        strides_BQ: pixels, or None.
        candidate_gt_BQ: int64 flat object index each token may answer for, -1 for none; or None.
    """

    boxes_BQ4: Tensor | None = None
    points_BQ2: Tensor | None = None
    strides_BQ: Tensor | None = None
    candidate_gt_BQ: Tensor | None = None


@dataclass
class Given:
    """What a source knows of a group of queries; the decoder hands it to each of the group's sets, on every path.

    Attributes:
        pairs: fixed pairs, ``query_P`` relative to the slot and ``set_P`` zero (denoising); None otherwise.
        scale: extra normalizer of the group's losses (denoising: number of groups).
        prior: where the queries begin, for matchers that look at it; the same for every set of the group.
        valid_BQ: bool, False for padding queries that must not be supervised; None = all valid.
        sets: the group's losses are the mean over so many sets, of one or more groups (Group-DETR).
    """

    pairs: Pairs | None = None
    scale: float = 1.0
    prior: Prior | None = None
    valid_BQ: Tensor | None = None
    sets: int = 1

    def pick(self, rows_BN: Tensor) -> Given:
        """The same of the queries at ``rows_BN``; a ``ValueError`` where pairs name queries by their place."""
        if self.pairs is not None:
            raise ValueError("queries with given pairs (denoising) cannot be picked: pairs name them by place")
        prior = self.prior
        if prior is not None:
            prior = Prior(*(None if x is None else tokens_at(x, rows_BN) for x in vars(prior).values()))
        valid_BN = None if self.valid_BQ is None else tokens_at(self.valid_BQ, rows_BN)
        return replace(self, prior=prior, valid_BQ=valid_BN)


def tokens_at(x_BT: Tensor, rows_BN: Tensor) -> Tensor:
    """(B, N, ...) tokens of a (B, T, ...) tensor, each image's own."""
    # no take_along_dim: a graph that is exported would be of one number of images
    index = rows_BN.reshape(*rows_BN.shape, *[1] * (x_BT.ndim - 2))
    return x_BT.gather(1, index.expand(*rows_BN.shape, *x_BT.shape[2:]))


@dataclass
class Assignment:
    """The answer of a matcher for a stack of N sets.

    Attributes:
        cls: pairs whose class entry is positive.
        box: pairs whose boxes are regressed (differ from ``cls`` in TSP).
        query_weight_NBQ: weight of every query's class loss; 0 = ignored. None means ones.
        damp: pairs whose class entry counts with ``weight_P`` as a negative.
    """

    cls: Pairs
    box: Pairs
    query_weight_NBQ: Tensor | None = None
    damp: Pairs | None = None


@dataclass
class SupervisedSet:
    """One set of predictions with the tags that rules select by.

    Attributes:
        logits_BQK: class logits.
        boxes_BQ4: normalized cxcywh boxes in [0, 1].
        stage: decoder step, 0-based; -1 for what an encoder or a query source supervises.
        group, path: as in ``Slot``.
        given: what the source knows of the group.
        softmax: logits are a softmax over K classes, the last of them "no object".
        match_boxes_BQ4: boxes the matcher looks at instead of ``boxes_BQ4`` (DAC's box source).
        outputs: further per-query outputs by name.
    """

    logits_BQK: Tensor
    boxes_BQ4: Tensor
    stage: int
    group: str = "main"
    path: str = "plain"
    given: Given = field(default_factory=Given)
    softmax: bool = False
    match_boxes_BQ4: Tensor | None = None
    outputs: dict[str, Tensor] = field(default_factory=dict)


class LossDict(dict):
    """Weighted losses by name (their sum is minimized), with per-stage statistics beside them in ``stats``."""

    def __init__(self, losses: dict[str, Tensor] | None = None, stats: dict[str, Tensor] | None = None) -> None:
        super().__init__(losses or {})
        self.stats: dict[str, Tensor] = stats or {}
