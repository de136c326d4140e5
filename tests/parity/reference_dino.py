"""DINO beside ``reference.py``: an independent reading over a state dict in detrex's layout, denoising included.

Written from the description of the method (Zhang et al., "DINO", https://arxiv.org/abs/2203.03605, sections 3.3-3.5)
and of detrex's conventions; random numbers are drawn in detrex's order.

Shape legend: B images, P denoising queries, Q matching queries, C channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .reference import (
    Dims,
    Reading,
    Weights,
    deformable_attention,
    encode,
    feed_forward,
    inverse_sigmoid,
    linear,
    mlp,
    neck,
    norm,
    propose,
    self_attention,
    waves,
)
from .reference_loss import corners, layer_losses


@dataclass
class Noise:
    """Denoising queries: noised labels (B, P), -1 where no object is; boxes (B, P, 4); who is hidden from whom."""

    groups: int
    most: int
    labels_BP: Tensor
    boxes_BP4: Tensor

    @property
    def size(self) -> int:
        return 2 * self.groups * self.most

    def hidden(self, queries: int) -> Tensor:
        """(P + Q, P + Q), True where the row does not see the column."""
        group = [n // (2 * self.most) for n in range(self.size)] + [-1] * queries
        rows = [[b != -1 and a != b for b in group] for a in group]
        return torch.tensor(rows)

    def pairs(self, labels: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Per image (queries, objects) of the positives, the first half of each group."""
        found = []
        for one in labels:
            rows = [(g * 2 * self.most + k, k) for g in range(self.groups) for k in range(len(one))]
            found.append(tuple(torch.tensor(rows, dtype=torch.int64).view(-1, 2).unbind(1)))
        return found


def noise(labels: list[Tensor], gt: list[Tensor], classes: int, number: int, flip: float, scale: float) -> Noise:
    """Draw the denoising queries of a batch from torch's default generator."""
    most = max(len(x) for x in labels)
    groups = max(1, number // most) if most else 0
    tiles, total = 2 * groups, sum(len(x) for x in labels)
    shape = (len(labels), tiles * most)
    out = Noise(groups, most, torch.full(shape, -1), gt[0].new_zeros(*shape, 4))
    changed = (torch.rand(tiles * total) < flip / 2).nonzero()[:, 0].tolist()
    other = dict(zip(changed, torch.randint(0, classes, (len(changed),)).tolist(), strict=True))
    sign = 2 * torch.randint(0, 2, (tiles * total, 4)) - 1
    amount = torch.rand(tiles * total, 4, dtype=gt[0].dtype)
    n = 0
    for tile in range(tiles):
        for image, (label, boxes) in enumerate(zip(labels, gt, strict=True)):
            for k, box in enumerate(boxes):
                half = torch.cat([box[2:], box[2:]]) / 2
                move = sign[n] * (amount[n] + tile % 2) * half * scale
                x0, y0, x1, y1 = (corners(box) + move).clamp(0, 1)
                row = tile * most + k
                out.boxes_BP4[image, row] = torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0])
                out.labels_BP[image, row] = other.get(n, int(label[k]))
                n += 1
    return out


def forward(
    w: Weights, dims: Dims, features: dict[str, Tensor], pad_BHW: Tensor, noised: Noise | None = None,
    chosen_BQ: Tensor | None = None,
) -> tuple[Reading, Reading]:  # fmt: skip
    """From backbone maps (finest first) to the predictions of matching and of denoising queries.

    Args:
        w, dims, features, pad_BHW: as in ``reference.forward``.
        noised: in training.
        chosen_BQ: use these tokens instead of the best by any class.
    """
    memory, scene = encode(w, dims, neck(w, dims, features), pad_BHW)
    enc_logits, enc_box_logits = propose(w, dims, memory, scene)
    if chosen_BQ is None:
        chosen_BQ = enc_logits.max(-1).values.topk(dims.queries, 1).indices
    enc_logits = torch.stack([x[i] for x, i in zip(enc_logits, chosen_BQ, strict=True)])
    enc_boxes = torch.stack([x[i] for x, i in zip(enc_box_logits, chosen_BQ, strict=True)]).sigmoid()
    ref, hidden, P = enc_boxes.detach(), None, 0
    x = w["transformer.tgt_embed.weight"].expand(len(memory), -1, -1)
    if noised is not None and noised.size:
        P, hidden = noised.size, noised.hidden(dims.queries)
        real = (noised.labels_BP >= 0)[..., None]
        content = torch.where(real, w["label_enc.weight"][noised.labels_BP.clamp_min(0)], 0.0)
        start = torch.where(real, inverse_sigmoid(noised.boxes_BP4), 0.0).sigmoid()
        x, ref = torch.cat([content, x], 1), torch.cat([start, ref], 1)
    logits, boxes, earlier = [], [], ref
    for i in range(dims.decoder_layers):
        name = f"transformer.decoder.layers.{i}"
        at = ref[:, :, None] * scene.ratio_BL2.repeat(1, 1, 2)[:, None]
        code = waves(at[:, :, 0, [1, 0, 2, 3]] * 2 * math.pi, dims.channels // 2).flatten(2)
        head = "transformer.decoder.ref_point_head.layers"
        pos = linear(w, f"{head}.1", linear(w, f"{head}.0", code).relu())
        x = norm(w, f"{name}.norms.0", self_attention(w, f"{name}.attentions.0", dims, x, pos, hidden))
        x = deformable_attention(w, f"{name}.attentions.1", dims, x, pos, at, memory, scene)
        x = norm(w, f"{name}.norms.2", feed_forward(w, name, norm(w, f"{name}.norms.1", x)))
        seen = norm(w, "transformer.decoder.norm", x)
        logits.append(linear(w, f"class_embed.{i}", seen))
        boxes.append((mlp(w, f"bbox_embed.{i}", seen) + inverse_sigmoid(earlier)).sigmoid())
        earlier = (mlp(w, f"bbox_embed.{i}", x) + inverse_sigmoid(ref)).sigmoid()
        ref = earlier.detach()
    main = Reading([t[:, P:] for t in logits], [t[:, P:] for t in boxes], enc_logits, enc_boxes, chosen_BQ)
    return main, Reading([t[:, :P] for t in logits], [t[:, :P] for t in boxes], None, None, None)


def losses(
    main: Reading, dn: Reading, noised: Noise, labels: list[Tensor], gt: list[Tensor]
) -> dict[str, Tensor]:
    """All weighted losses under detrex's names: ``loss_bbox``, ``loss_bbox_3``, ``loss_bbox_dn_3``, ..."""
    last = len(main.logits) - 1
    found = {}

    def add(values: dict[str, Tensor], suffix: str) -> None:
        found.update({f"loss_{term}{suffix}": value for term, value in values.items()})

    for i in range(last + 1):
        suffix = "" if i == last else f"_{i}"
        add(layer_losses(main.logits[i], main.boxes[i], labels, gt), suffix)
        known = layer_losses(dn.logits[i], dn.boxes[i], labels, gt, noised.pairs(labels), max(1, noised.groups))
        add(known, f"_dn{suffix}")
    add(layer_losses(main.enc_logits, main.enc_boxes, labels, gt), "_enc")
    return found
