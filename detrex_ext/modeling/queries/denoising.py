"""Contrastive denoising queries (DINO, arXiv 2203.03605, section 3.3; DN-DETR, arXiv 2203.01305).

Shape legend: B images, G objects of the batch, R tiles (positive and negative, per group), M most objects of an image,
P = R M denoising queries (more where they are filled up), Q matching queries.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from detrex_ext.layers.box_ops import (
    LOGIT_EPS,
    box_cxcywh_to_xyxy,
    box_xyxy_to_cxcywh,
    checked_logit_eps,
    inverse_sigmoid,
)
from detrex_ext.layers.cpu.common import eager
from detrex_ext.structures import Given, Memory, Pairs, Queries, Slot, SupervisedSet, Targets
from detrex_ext.structures.queries import cat

from ..sizes import require_classes
from .base import QuerySource


class DenoisingQueries(QuerySource):
    """Puts noised copies of the objects before another source's queries, in training.

    Each group holds a positive (little noise, to be restored) and a negative (more noise, to be rejected) of every
    object. Groups see themselves and the matching queries, which see no group. Keys: ``label_enc.weight`` (K, C) and
    the inner source under ``source``.

    Args:
        source: the source of the matching queries; it must be able to ``place`` a box.
        num_classes: K.
        dim: C.
        number: denoising queries of one kind to aim for; groups = max(1, number // M).
        groups: a fixed number of groups instead.
        label_noise_ratio: half of it is the probability of a random label.
        box_noise_scale: corners move by up to this many half sides; negatives by one to two times as much.
        inverse_sigmoid_eps: noised boxes go as logits, taken so near to 0 and 1: the decoder's.
        pad_to: fill denoising queries up to a multiple of this number, so that most batches have as many: for compiled
            parts. No other query sees what is added, and it is not supervised: losses and gradients stay.
            None = not filled up.
    """

    def __init__(
        self,
        source: QuerySource,
        num_classes: int,
        dim: int = 256,
        number: int = 100,
        groups: int | None = None,
        label_noise_ratio: float = 0.5,
        box_noise_scale: float = 1.0,
        inverse_sigmoid_eps: float = LOGIT_EPS,
        pad_to: int | None = None,
    ) -> None:
        require_classes(num_classes)
        super().__init__()
        if not source.places:
            host = type(getattr(source, "source", source)).__name__
            raise ValueError(f"denoising needs a source that can place a box; {host} cannot")
        self.source, self.num_classes, self.dim = source, num_classes, dim
        self.number, self.groups, self.pad_to = number, groups, pad_to
        self.label_noise_ratio, self.box_noise_scale = label_noise_ratio, box_noise_scale
        self.inverse_sigmoid_eps = checked_logit_eps(inverse_sigmoid_eps)
        self.label_enc = nn.Embedding(num_classes, dim)

    def forward(self, mem: Memory, targets: Targets | None = None) -> tuple[Queries, list[SupervisedSet]]:
        """See :meth:`QuerySource.forward`; in training, the P denoising queries stand before the source's."""
        main, sets = self.source(mem, targets)
        if not self.training or targets is None:
            return main, sets
        most = max(targets.counts, default=0)
        groups = self._num_groups(most) if most else 0
        noised = self._noised(mem, targets, main, groups, most)
        # denoising and matching queries are one domain under one mask: they share a self-attention call
        domain = next(s.domain for s in main.slots if s.group == "main")
        both = cat(noised, main)
        slots = (replace(both.slots[0], domain=domain), *both.slots[1:])
        masks = dict(main.masks)
        if noised.slots[0].size:
            masks[domain] = self._mask(noised, main, domain, groups, 2 * most)
        return both.replace(slots=slots, masks=masks), sets

    def place(self, boxes_BT4: Tensor, mem: Memory) -> tuple[Tensor, dict[str, Tensor]]:
        """See :meth:`QuerySource.place`."""
        return self.source.place(boxes_BT4, mem)

    @property
    def bucket(self) -> int:
        """A ``pad_to`` that most batches need once: of as many queries as are aimed for, or 16 objects a group."""
        return 2 * (self.number if self.groups is None else 16 * max(self.groups, 1))

    def _num_groups(self, most: int) -> int:
        return self.groups if self.groups is not None else max(1, self.number // max(most, 1))

    def _noised(self, mem: Memory, targets: Targets, main: Queries, groups: int, most: int) -> Queries:
        B, tiles, G = len(targets.labels), 2 * groups, targets.num
        device = main.ref_BT4.device
        labels = self._noise_labels(targets.labels_G.repeat(tiles))
        boxes = self._noise_boxes(targets.boxes_G4.to(main.ref_BT4.dtype).repeat(tiles, 1), G)
        image = targets.image_G.repeat(tiles)
        within = (torch.arange(G, device=device) - targets.offsets_B[targets.image_G]).repeat(tiles)
        tile = torch.arange(tiles, device=device).repeat_interleave(G)
        row = tile * most + within
        real = size = tiles * most
        if self.pad_to is not None:
            size = max(1, -(-real // self.pad_to)) * self.pad_to
        # rows without an object stay zero content at box logit 0, and are supervised as background
        content = main.content_BTC.new_zeros(B, size, main.content_BTC.shape[-1])
        content[image, row] = self.label_enc(labels).to(content.dtype)
        ref = main.ref_BT4.new_full((B, size, 4), 0.5)
        ref[image, row] = inverse_sigmoid(boxes, self.inverse_sigmoid_eps).sigmoid()
        if not real:
            # keeps the embedding in the graph, so that every rank has the same parameters in use
            content = content + 0.0 * self.label_enc.weight[0]
        # every second tile is positive
        image, row = (x.view(groups, 2, G)[:, 0].flatten() for x in (image, row))
        gt = torch.arange(G, device=device).repeat(groups)
        pairs = Pairs(torch.zeros_like(gt), image, row, gt)
        ref, extra = self.source.place(ref, mem)
        valid = None if self.pad_to is None else (torch.arange(size, device=device) < real).expand(B, -1)
        given = {"dn": Given(pairs, float(max(groups, 1)), valid_BQ=valid)}
        return Queries(content, ref, (Slot(size, "dn"),), given=given, extra=extra)

    def _noise_labels(self, labels: Tensor) -> Tensor:
        flip = torch.rand(labels.shape, device=labels.device) < 0.5 * self.label_noise_ratio
        # where to learn how many they are is to wait for all before, or there are no values
        if labels.device.type != "cpu" or not eager() or type(flip) is not Tensor:
            return torch.where(flip, torch.randint_like(labels, 0, self.num_classes), labels)
        chosen = flip.nonzero()[:, 0]
        return labels.index_put((chosen,), torch.randint_like(chosen, 0, self.num_classes))

    def _noise_boxes(self, boxes: Tensor, G: int) -> Tensor:
        """Corners of each box moved; every second tile of G boxes is a negative. Returns cxcywh in [0, 1]."""
        xyxy = box_cxcywh_to_xyxy(boxes)
        half = (boxes[:, 2:] / 2).repeat(1, 2)
        sign = torch.randint_like(boxes, 0, 2) * 2 - 1
        size = torch.rand_like(boxes)
        negative = torch.arange(len(boxes), device=boxes.device) // max(G, 1) % 2 == 1
        size = size + negative[:, None]
        return box_xyxy_to_cxcywh((xyxy + size * sign * half * self.box_noise_scale).clamp(0, 1))

    @staticmethod
    def _mask(noised: Queries, main: Queries, domain: int, groups: int, each: int) -> Tensor:
        """(P + Q, P + Q) of the shared domain, True = may attend; so many groups of ``each`` queries come first."""
        P, Q = noised.slots[0].size, sum(s.size for s in main.slots if s.domain == domain)
        # what fills up is a group of its own
        group_P = (torch.arange(P, device=main.ref_BT4.device) // max(each, 1)).clamp(max=groups)
        mask = torch.ones(P + Q, P + Q, dtype=torch.bool, device=group_P.device)
        mask[:P, :P] = group_P[:, None] == group_P[None]
        mask[P:, :P] = False
        if domain in main.masks:
            mask[P:, P:] = main.masks[domain]
        return mask
