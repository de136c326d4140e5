"""The training losses of Deformable-DETR as plain functions, one layer and one image at a time.

Sources: Carion et al. (https://arxiv.org/abs/2005.12872) equations 1-2, Lin et al. (https://arxiv.org/abs/1708.02002)
equation 5, Rezatofighi et al. (https://arxiv.org/abs/1902.09630) algorithm 1.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .reference import Reading

ALPHA, GAMMA, EPS = 0.25, 2.0, 1e-6
COSTS = {"class": 2.0, "bbox": 5.0, "giou": 2.0}
WEIGHTS = {"class": 1.0, "bbox": 5.0, "giou": 2.0}


def corners(box: Tensor) -> Tensor:
    return torch.cat([box[..., :2] - box[..., 2:] / 2, box[..., :2] + box[..., 2:] / 2], -1)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of broadcast cxcywh boxes."""
    a, b = torch.broadcast_tensors(corners(a), corners(b))
    inter = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp_min(0).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - inter
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp_min(0).prod(-1)
    return inter / (union + EPS) - (hull - union) / (hull + EPS)


def match(logits: Tensor, boxes: Tensor, labels: Tensor, gt: Tensor) -> tuple[Tensor, Tensor]:
    """The cheapest one-to-one matching of one image: (queries, objects)."""
    with torch.no_grad():
        p = logits.sigmoid()[:, labels]
        positive = -ALPHA * (1 - p) ** GAMMA * (p + 1e-8).log()
        negative = -(1 - ALPHA) * p**GAMMA * (1 - p + 1e-8).log()
        cost = COSTS["class"] * (positive - negative)
        cost = cost + COSTS["bbox"] * (boxes[:, None] - gt).abs().sum(-1)
        cost = cost - COSTS["giou"] * giou(boxes[:, None], gt)
    rows, columns = linear_sum_assignment(cost.numpy())
    return torch.as_tensor(rows), torch.as_tensor(columns)


def focal(logits: Tensor, truth: Tensor) -> Tensor:
    """Sum of the focal loss over all entries; ``truth`` is 0 or 1."""
    p = logits.sigmoid()
    log_p, log_1p = torch.nn.functional.logsigmoid(logits), torch.nn.functional.logsigmoid(-logits)
    loss = -truth * ALPHA * (1 - p) ** GAMMA * log_p - (1 - truth) * (1 - ALPHA) * p**GAMMA * log_1p
    return loss.sum()


def layer_losses(
    logits: Tensor, boxes: Tensor, labels: list[Tensor], gt: list[Tensor], pairs: list | None = None, share: int = 1
) -> dict[str, Tensor]:
    """Weighted losses of one layer by term, over the batch.

    Args:
        pairs: per image the known (queries, objects); None = the cheapest matching.
        share: further divisor.
    """
    count = max(1, sum(len(x) for x in labels)) * share
    sums = {"class": 0.0, "bbox": 0.0, "giou": 0.0}
    for i, (logit, box, label, truth) in enumerate(zip(logits, boxes, labels, gt, strict=True)):
        query, thing = match(logit, box, label, truth) if pairs is None else pairs[i]
        hot = torch.zeros_like(logit)
        hot[query, label[thing]] = 1
        sums["class"] = sums["class"] + focal(logit, hot)
        sums["bbox"] = sums["bbox"] + (box[query] - truth[thing]).abs().sum()
        sums["giou"] = sums["giou"] + (1 - giou(box[query], truth[thing])).sum()
    return {term: WEIGHTS[term] * value / count for term, value in sums.items()}


def losses(reading: Reading, labels: list[Tensor], gt: list[Tensor]) -> dict[str, Tensor]:
    """All weighted losses under detrex's names: ``loss_bbox``, ``loss_bbox_3``, ``loss_bbox_enc``, ...

    Args:
        reading: predictions.
        labels: per image (n,) class ids.
        gt: per image (n, 4) cxcywh boxes, normalized by the unpadded image.
    """
    last = len(reading.logits) - 1
    found = {}
    for i, (logits, boxes) in enumerate(zip(reading.logits, reading.boxes, strict=True)):
        for term, value in layer_losses(logits, boxes, labels, gt).items():
            found[f"loss_{term}" + ("" if i == last else f"_{i}")] = value
    if reading.enc_logits is not None:
        objects = [torch.zeros_like(x) for x in labels]
        for term, value in layer_losses(reading.enc_logits, reading.enc_boxes, objects, gt).items():
            found[f"loss_{term}_enc"] = value
    return found
