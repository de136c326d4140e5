"""What losses and normalizers see: a stack of predictions, its assignment, and the objects.

Shape legend: N sets, B images, Q queries of a set, K classes, G objects of the batch (flat), P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from detrex_ext.layers.box_ops import Corners, corners, iou_of_corners
from detrex_ext.matching import Stack
from detrex_ext.structures import Assignment, Pairs, Targets


@dataclass
class Supervision:
    """One stack under one rule. Gathered tensors are made once and shared by all losses of the rule.

    Attributes:
        stack: predictions of N sets.
        assignment: which query answers for which object.
        targets: objects, with labels as the rule sees them (all 0 under ``objectness``).
    """

    stack: Stack
    assignment: Assignment
    targets: Targets

    @cached_property
    def cls_rows_P(self) -> Tensor:
        """Flat (set, image, query) row of each class pair."""
        return self._rows(self.assignment.cls)

    @cached_property
    def cls_labels_P(self) -> Tensor:
        """Class of each class pair's object."""
        return self.targets.labels_G[self.assignment.cls.gt_P]

    @cached_property
    def cls_corners(self) -> tuple[Corners, Corners]:
        """Corners of each class pair's predicted box and of its object, each (P,), without gradient."""
        pred_P4 = self.stack.boxes_NBQ4.detach().reshape(-1, 4)[self.cls_rows_P]
        true_P4 = self.targets.boxes_G4.to(pred_P4.dtype)[self.assignment.cls.gt_P]
        return corners(pred_P4), corners(true_P4)

    @cached_property
    def cls_iou_P(self) -> Tensor:
        """IoU of each class pair's predicted box with its object, without gradient."""
        return iou_of_corners(*self.cls_corners, eps=0.0)[0]

    @cached_property
    def damp_entries_P(self) -> Tensor:
        """Flat (set, image, query, class) entry of each damped pair."""
        damp = self.assignment.damp
        return self._rows(damp) * self.stack.shape[3] + self.targets.labels_G[damp.gt_P]

    @cached_property
    def box_rows_P(self) -> Tensor:
        """Flat (set, image, query) row of each box pair."""
        return self._rows(self.assignment.box)

    @cached_property
    def box_pred_P4(self) -> Tensor:
        """Predicted cxcywh box of each box pair, with gradient."""
        return self.stack.boxes_NBQ4.reshape(-1, 4).index_select(0, self.box_rows_P)

    @cached_property
    def box_true_P4(self) -> Tensor:
        """Box of each box pair's object, cxcywh."""
        return self.targets.boxes_G4.to(self.stack.boxes_NBQ4.dtype)[self.assignment.box.gt_P]

    @cached_property
    def query_weight_NBQ(self) -> Tensor | None:
        """Weight of each query's class loss: the assignment's, and 0 where the source says invalid. None means ones."""
        weight, valid_BQ = self.assignment.query_weight_NBQ, self.stack.given.valid_BQ
        if valid_BQ is None:
            return weight
        valid = valid_BQ.to(self.stack.logits_NBQK.dtype)
        return valid.expand(self.stack.shape[:3]) if weight is None else weight * valid

    def per_set(self, value_P: Tensor, pairs: Pairs) -> Tensor:
        """(N,) sums of pair values, each times its pair's weight; a sum over no pairs is a zero with a graph."""
        if pairs.weight_P is not None:
            value_P = value_P * pairs.weight_P
        if pairs.valid_P is not None:
            value_P = value_P * pairs.valid_P
        return value_P.new_zeros(self.stack.shape[0]).index_add(0, pairs.set_P, value_P)

    def _rows(self, pairs: Pairs) -> Tensor:
        _, B, Q, _ = self.stack.shape
        return (pairs.set_P * B + pairs.img_P) * Q + pairs.query_P
