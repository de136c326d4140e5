"""What TSP-FCOS and TSP-RCNN would predict on a few images, at random, with the objects there."""

from __future__ import annotations

import torch
from pyramids import objects, pyramid

from detrex_ext.layers.fcos_targets import fcos_targets
from detrex_ext.layers.roi_targets import roi_targets
from detrex_ext.structures import Given, Prior, SupervisedSet, Targets
from detrex_ext.structures.supervision import tokens_at

K, SIZE = 3, (96, 128)


def targets_of(counts, g, dtype):
    """Objects of images of one size, and their boxes (xyxy, pixels), flat."""
    boxes = [objects(n, *SIZE, g).to(dtype) for n in counts]
    w, h = SIZE[1], SIZE[0]
    scale = torch.tensor([w, h, w, h], dtype=dtype)
    normal = tuple(torch.cat([b[:, :2] + b[:, 2:], 2 * (b[:, 2:] - b[:, :2])], 1) / 2 / scale for b in boxes)
    labels = tuple(torch.randint(0, K, (n,), generator=g) for n in counts)
    return Targets(labels, normal, torch.tensor([SIZE] * len(counts), dtype=dtype)), torch.cat(boxes)


def fcos(counts, tokens=60, seed=0, dtype=torch.float64, binary=False, miss=0.3):
    """The set of main's tokens and that of all points, and the objects.

    A share ``miss`` of the points with an object, and an object's every point in some cases, are not among the tokens.
    """
    g, B = torch.Generator().manual_seed(seed), len(counts)
    points, strides, levels = pyramid(*SIZE, dtype=dtype)
    targets, boxes = targets_of(counts, g, dtype)
    gt_BP = fcos_targets(points, strides, levels, boxes, targets.image_G, B)
    first = (gt_BP >= 0).float() * (torch.rand(gt_BP.shape, generator=g) > miss)
    chosen = (first + torch.rand(gt_BP.shape, generator=g)).topk(tokens, 1).indices
    size = torch.tensor([SIZE[1], SIZE[0]], dtype=dtype)
    every = Given(prior=Prior(None, (points / size).expand(B, -1, 2), strides.expand(B, -1), gt_BP))

    def rand(*shape, low=0.0, high=1.0):
        return (low + (high - low) * torch.rand(shape, generator=g, dtype=dtype)).requires_grad_()

    ltrb = rand(B, tokens, 4, high=3.0)
    at, s = tokens_at(points.expand(B, -1, 2), chosen), tokens_at(strides.expand(B, -1), chosen)[..., None]
    x0y0, x1y1 = at - ltrb[..., :2] * s, at + ltrb[..., 2:] * s
    boxes_BQ4 = torch.cat([(x0y0 + x1y1) / 2 / size, (x1y1 - x0y0) / size], -1)
    outputs = {"ltrb": ltrb, "centerness": rand(B, tokens, low=-2, high=2)}
    main = SupervisedSet(rand(B, tokens, K, low=-3), boxes_BQ4, 0, given=every.pick(chosen), outputs=outputs)
    dense = rand(B, len(points), 1 if binary else K, low=-4, high=-1)
    cells = torch.cat([points / size, strides[:, None] / size], 1).expand(B, -1, 4)
    return main, SupervisedSet(dense, cells, -1, "token", given=every), targets, chosen


def rcnn(counts, regions=40, seed=0, dtype=torch.float64, far=False, padding=0):
    """The set of main's regions, half of them near objects (``far``: none), the last ``padding`` of image 0 invalid."""
    g, B = torch.Generator().manual_seed(seed), len(counts)
    targets, boxes = targets_of(counts, g, dtype)
    size = torch.tensor([SIZE[1], SIZE[0]] * 2, dtype=dtype)
    proposals = torch.stack([objects(regions, *SIZE, g) for _ in counts]).to(dtype)
    start = 0
    for b, n in enumerate(counts):
        if n and not far:
            near = boxes[start : start + n][torch.arange(regions // 2) % n]
            extent = (near[:, 2:] - near[:, :2]).repeat(1, 2)
            proposals[b, : regions // 2] = near + 0.2 * extent * (torch.rand(len(near), 4, generator=g) - 0.5)
        start += n
    proposals = torch.cat([proposals[..., :2], torch.maximum(proposals[..., 2:], proposals[..., :2] + 1)], -1)
    valid = torch.ones(B, regions, dtype=torch.bool)
    valid[0, regions - padding :] = False
    proposals = torch.where(valid[..., None], proposals, 0.0)
    gt_BQ = roi_targets(proposals, boxes, targets.image_G, 1.0 if far else 0.5, valid)
    first = torch.cat([proposals[..., :2] + proposals[..., 2:], 2 * (proposals[..., 2:] - proposals[..., :2])], -1) / 2
    deltas = (torch.rand(B, regions, K, 4, generator=g, dtype=dtype) - 0.5).requires_grad_()
    center = first[:, :, None, :2] + deltas[..., :2] / 10 * first[:, :, None, 2:]
    half = (deltas[..., 2:] / 5).exp() * first[:, :, None, 2:] / 2
    class_boxes = torch.cat([center - half, center + half], -1) / size
    logits = (6 * torch.rand(B, regions, K + 1, generator=g, dtype=dtype) - 3).requires_grad_()
    best = class_boxes.take_along_dim(logits[..., :-1].argmax(-1)[..., None, None], 2)[:, :, 0]
    own = torch.cat([best[..., :2] + best[..., 2:], 2 * (best[..., 2:] - best[..., :2])], -1) / 2
    given = Given(prior=Prior(first / size, candidate_gt_BQ=gt_BQ), valid_BQ=valid if padding else None)
    outputs = {"deltas": deltas, "class_boxes": class_boxes}
    return SupervisedSet(logits, own, 0, given=given, softmax=True, outputs=outputs), targets
