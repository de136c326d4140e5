"""Predictions of a query set to boxes in the pixels of the original image.

Shape legend: B images, Q queries, K classes, N kept candidates per image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..layers.box_ops import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh
from ..layers.cpu.common import exporting
from ..layers.soft_nms import KINDS, soft_nms
from ..layers.suppression import best_of_duplicates, kept_in_one_call
from ..runtime import Boxes, Instances
from ..structures import SupervisedSet
from ..structures.placing import placed
from ..structures.supervision import tokens_at


class Postprocess:
    """The best (query, class) pairs of the last main set; no threshold.

    Args:
        top_k: pairs per image, out of all classes of all queries; None = every query with its best class.
        nms: of two boxes of one class with a higher IoU than this, the one with the lower score is dropped, before
            the best ``top_k`` are taken; for models of which several queries answer for an object. None = all stay.
        nms_of: at most so many best pairs enter the suppression.
        class_agnostic: boxes suppress each other whatever their classes.
        root: scores are square roots of probabilities, as in FCOS's code; their order, and so AP, is the same.
        soft: instead of dropping a box, lower its score by its IoU with better ones: ``linear`` (above ``nms``) or
            ``gaussian`` (by ``sigma``), see :func:`~detrex_ext.layers.soft_nms.soft_nms`.
        sigma: see ``soft``.
    """

    def __init__(
        self,
        top_k: int | None = 300,
        nms: float | None = None,
        nms_of: int = 10000,
        class_agnostic: bool = False,
        root: bool = False,
        soft: str | None = None,
        sigma: float = 0.5,
    ) -> None:
        if nms is not None and not 0 < nms <= 1:
            raise ValueError(f"nms is an IoU between 0 and 1, or None for no suppression; got {nms}")
        self.top_k, self.nms, self.nms_of = top_k, nms, nms_of
        if soft is not None and (soft not in KINDS or nms is None):
            raise ValueError(f"soft is one of {', '.join(KINDS)} beside an IoU as nms, or None; got {soft} and {nms}")
        self.class_agnostic, self.root, self.soft, self.sigma = class_agnostic, root, soft, sigma

    def __call__(
        self, sets: Sequence[SupervisedSet], image_hw_B2: Tensor, batched_inputs: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Instances]]:
        """Predictions in detectron2's layout, best first.

        Args:
            sets: what the decoder emitted; the last plain set of group "main" is used, and not changed.
            image_hw_B2: size of each network input without padding; the output size where ``batched_inputs`` names
                none.
            batched_inputs: each may name the original ``height`` and ``width``.

        Returns:
            Per image ``{"instances": Instances}`` with ``pred_boxes`` (XYXY in pixels of the output size, clipped,
            empty ones dropped), ``scores`` and ``pred_classes``.

        Raises:
            FloatingPointError: a box or score is not finite.
            ValueError: the decoder emitted no such set.
        """
        sizes = _output_sizes(image_hw_B2, batched_inputs)
        boxes_BN4, scores_BN, labels_BN, keep_BN, finite = self.candidates(sets, sizes)
        all_finite, keep_all = torch.stack([finite, keep_BN.all()]).tolist()
        if not all_finite:
            names = [str(x.get("file_name", i)) for i, x in enumerate(batched_inputs)]
            raise FloatingPointError(f"predictions are not finite; batch: {', '.join(names)}")
        kept = [slice(None) if keep_all else keep_N for keep_N in keep_BN]
        rows = zip(sizes, boxes_BN4, scores_BN, labels_BN, kept, strict=True)
        return [{"instances": _instances(size, *(x[keep] for x in found))} for size, *found, keep in rows]

    def candidates(
        self, sets: Sequence[SupervisedSet], sizes: Sequence[tuple[int, int]] | Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What is kept or not, in tensors that are as long for all images.

        Args:
            sets: as in a call.
            sizes: (height, width) of each image's output.

        Returns:
            boxes (B, N, 4), scores, labels and what stays, (B, N) each, best first; whether all is finite.

        Raises:
            ValueError: the decoder emitted no such set.
        """
        main = main_sets(sets)
        if not main:
            raise ValueError(f"no main set among {[(s.group, s.path, s.stage) for s in sets]}")
        chosen = main[-1]
        pairs = self.top_k if self.nms is None or self.top_k is None else self.nms_of
        scores_BN, labels_BN, query_BN = top_candidates(
            chosen.logits_BQK, pairs, chosen.softmax, chosen.given.valid_BQ
        )
        scores_BN = scores_BN.sqrt() if self.root else scores_BN
        first_BN4 = _boxes_of(chosen, query_BN, labels_BN)
        finite = first_BN4.isfinite().all() & scores_BN.isfinite().all()
        boxes_BN4, keep_BN = to_pixels(first_BN4, sizes)
        if chosen.given.valid_BQ is not None:
            keep_BN = keep_BN & chosen.given.valid_BQ.gather(1, query_BN)
        if self.nms is not None:
            # Faster R-CNN's second stage cuts boxes to the image first, FCOS does not
            seen_BN4 = boxes_BN4 if "class_boxes" in chosen.outputs else box_cxcywh_to_xyxy(first_BN4)
            scores_BN, stay_BN = self._suppressed(seen_BN4, scores_BN, labels_BN)
            keep_BN = keep_BN & stay_BN
        if self.soft is not None:
            scores_BN, order_BN = scores_BN.sort(dim=1, descending=True, stable=True)
            labels_BN, boxes_BN4, keep_BN = (tokens_at(x, order_BN) for x in (labels_BN, boxes_BN4, keep_BN))
        return boxes_BN4, scores_BN, labels_BN, keep_BN, finite

    def _suppressed(self, xyxy_BN4: Tensor, scores_BN: Tensor, labels_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B, N) after suppression, and which stay."""
        groups_BN = torch.zeros_like(labels_BN) if self.class_agnostic else labels_BN
        if exporting():
            return scores_BN, kept_in_one_call(xyxy_BN4, scores_BN, groups_BN, self.nms, self.top_k)
        if self.soft is None:
            return scores_BN, best_of_duplicates(xyxy_BN4, scores_BN, groups_BN, self.nms, self.top_k)
        how = self.soft, self.nms, self.sigma, self.top_k
        lowered = [soft_nms(*one, *how) for one in zip(xyxy_BN4, scores_BN, groups_BN, strict=True)]
        return torch.stack(lowered), torch.stack(lowered) > 0


def _instances(size: tuple[int, int], boxes_N4: Tensor, scores_N: Tensor, labels_N: Tensor) -> Instances:
    """Of one image; boxes are XYXY in pixels."""
    found = Instances(size)
    found.pred_boxes, found.scores, found.pred_classes = Boxes(boxes_N4), scores_N, labels_N
    return found


def _boxes_of(s: SupervisedSet, query_BN: Tensor, labels_BN: Tensor) -> Tensor:
    """(B, N, 4) cxcywh boxes of queries, where the set has one for each class those of these classes."""
    if "class_boxes" not in s.outputs:
        return tokens_at(s.boxes_BQ4.float(), query_BN)
    class_boxes = s.outputs["class_boxes"].float()
    K = class_boxes.shape[2]
    return box_xyxy_to_cxcywh(tokens_at(class_boxes.flatten(1, 2), query_BN * K + labels_BN % K))


def main_sets(sets: Sequence[SupervisedSet]) -> list[SupervisedSet]:
    """The plain sets of group "main", by stage."""
    return sorted((s for s in sets if s.group == "main" and s.path == "plain"), key=lambda s: s.stage)


def top_candidates(
    logits_BQK: Tensor, top_k: int | None, softmax: bool = False, valid_BQ: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, labels and query indices, each (B, N), by descending score.

    Args:
        logits_BQK: class logits; with ``softmax`` the last class means "no object" and is left out.
        top_k: N at most, over all (query, class) pairs; None = each query with its best class.
        softmax: probabilities by softmax, else by sigmoid.
        valid_BQ: bool, False for padding queries, whose scores are 0; None = all valid.
    """
    prob_BQK = class_scores(logits_BQK, softmax)
    if valid_BQ is not None:
        prob_BQK = prob_BQK * valid_BQ[..., None]
    if top_k is None:
        best_BQ, label_BQ = prob_BQK.max(-1)
        every = best_BQ.shape[1]  # ONNX has no stable sort
        scores, query = best_BQ.topk(every, 1) if exporting() else best_BQ.sort(dim=1, descending=True, stable=True)
        return scores, label_BQ.gather(1, query), query
    classes = prob_BQK.shape[-1]
    scores, index = prob_BQK.flatten(1).topk(min(top_k, prob_BQK[0].numel()), dim=1)
    return scores, index % classes, index // classes


def class_scores(logits: Tensor, softmax: bool = False) -> Tensor:
    """(B, Q, K) probabilities of the object classes, fp32; with ``softmax`` without the last class, "no object"."""
    return logits.float().softmax(-1)[..., :-1] if softmax else logits.float().sigmoid()


def to_pixels(boxes_BN4: Tensor, sizes: Sequence[tuple[int, int]] | Tensor) -> tuple[Tensor, Tensor]:
    """Normalized cxcywh -> XYXY in pixels inside the image of (height, width), and which boxes are not empty."""
    hw = sizes.to(boxes_BN4) if isinstance(sizes, Tensor) else placed(sizes, boxes_BN4)
    limit_B14 = hw.flip(1).repeat(1, 2)[:, None]
    center, size = boxes_BN4[..., :2], boxes_BN4[..., 2:]
    xyxy = torch.cat([center - size / 2, center + size / 2], -1) * limit_B14
    xyxy = torch.minimum(xyxy.clamp(min=0), limit_B14)
    return xyxy, (xyxy[..., 2:] > xyxy[..., :2]).all(-1)


def _output_sizes(image_hw_B2: Tensor, batched_inputs: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    if all("height" in x and "width" in x for x in batched_inputs):
        return [(int(x["height"]), int(x["width"])) for x in batched_inputs]
    own = image_hw_B2.round().long().tolist()
    return [(int(x.get("height", h)), int(x.get("width", w))) for x, (h, w) in zip(batched_inputs, own, strict=True)]
