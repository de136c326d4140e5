"""Auxiliary heads on the encoder's maps, whose positives are given to the decoder as queries.

Source: "DETRs with Collaborative Hybrid Assignments Training" (Co-DETR), ICCV 2023, arXiv 2211.12860.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from detrex_ext.layers.strided import StridedConv
from detrex_ext.modeling.decoders.set_head import SetHead
from detrex_ext.modeling.encoders import ATSSHead, RoIHead
from detrex_ext.modeling.encoders.atss import norm_groups
from detrex_ext.modeling.queries import PositiveQueries, host_source
from detrex_ext.modeling.queries.positive import choose, looked_at
from detrex_ext.structures import Memory, Prior, Queries, Slot, SupervisedSet, Targets, cat
from detrex_ext.structures.supervision import tokens_at

from .base import Strategy

if TYPE_CHECKING:
    from detrex_ext.criterion import Rule
    from detrex_ext.criterion.normalizers import Normalizer
    from detrex_ext.modeling.detector import Detector

HEADS = {"atss": ATSSHead, "roi": RoIHead}


class CollaborativeHeads(nn.Module, Strategy):
    """Heads of other detectors learn on the encoder's maps, each with assignments of its own, several to an object.

    The maps are the memory's and one more of half the size. What answers for an object in a head goes through the
    decoder as a query too, with that object given: a group of queries named after the head, which attends to itself
    alone. Neither enters what other strategies add.

    Args:
        heads: ``atss``: a dense head; ``roi``: Faster R-CNN's, whose proposals a GPU waits for. The authors have both.
        give_queries: positives become queries.
        num_queries: of a group at most.
        features: such queries have the maps' features in their content, not their place alone.
        weight: factor of the losses of given queries (the authors' lambda 1).
        head_weight: factor of the heads' losses for each stage of the decoder (their lambda 2).
    """

    def __init__(
        self,
        heads: Sequence[str] = ("atss",),
        give_queries: bool = True,
        num_queries: int = 300,
        features: bool = True,
        weight: float = 1.0,
        head_weight: float = 2.0,
    ) -> None:
        super().__init__()
        self.names = tuple(heads)
        if not self.names or len({*self.names}) < len(self.names) or not {*self.names} <= {*HEADS}:
            raise ValueError(f"heads must be some of {', '.join(HEADS)}, each once; got {list(heads)}")
        if num_queries < 1:
            raise ValueError(f"num_queries must be at least 1, got {num_queries}")
        self.give_queries, self.num_queries, self.features = give_queries, num_queries, features
        self.weight, self.head_weight, self.stages = weight, head_weight, 1

    def check(self, stages: int) -> None:
        """See :meth:`Strategy.check`."""
        self.stages = stages

    def attach(self, model: Detector) -> None:
        """See :meth:`Strategy.attach`."""
        if isinstance(model.decoder, SetHead):
            raise ValueError(
                "collaborative heads read the maps of an encoder and give queries to a decoder; the tokens of "
                f"{type(model.decoder).__name__} are neither"
            )
        source, dim = host_source(model.queries), model.dim
        if self.give_queries and not (source.places or source.positioned):
            raise ValueError(
                f"{type(source).__name__} cannot place a box as a query, as positives are given: use "
                "give_queries=false, for the heads alone"
            )
        strides = _strides(model)
        self.coarser = nn.Sequential(StridedConv(dim, dim, 3, 2, 1), nn.GroupNorm(norm_groups(dim), dim))
        self.heads = nn.ModuleDict({name: HEADS[name](model.num_classes, dim, strides) for name in self.names})
        given = self.names if self.give_queries else ()
        self.queries = nn.ModuleDict({n: PositiveQueries(dim, source.positioned, self.features) for n in given})

    def begin(
        self, model: Detector, q: Queries, mem: Memory, targets: Targets | None
    ) -> tuple[list[SupervisedSet], Queries]:
        """See :meth:`Strategy.begin`."""
        if targets is None:
            return [], q
        tokens = mem.tokens_BSC.split([h * w for h, w in mem.shapes], 1)
        maps = [x.transpose(1, 2).unflatten(2, size) for x, size in zip(tokens, mem.shapes, strict=True)]
        maps.append(self.coarser(maps[-1]))
        sets, groups = [], []
        for name, head in self.heads.items():
            found, features_BSC = head(maps, mem.image_hw_B2, targets, name)
            sets += found
            if self.give_queries:
                most = head.most(max(targets.counts, default=0))
                groups.append(self._given(name, found[-1], features_BSC, most, model, q, mem))
        return sets, cat(*groups, q)

    def _given(
        self, name: str, found: SupervisedSet, features_BSC: Tensor, most: int, model: Detector, q: Queries, mem: Memory
    ) -> Queries:
        """Positives of a head as a group of queries."""
        index_BQ, valid_BQ = choose(found.given, self.num_queries, most)
        prior = found.given.pick(index_BQ).prior
        # what fills up shows nothing
        boxes_BQ4 = prior.boxes_BQ4.where(valid_BQ[..., None], 0.5)
        features_BQC = tokens_at(features_BSC, index_BQ).where(valid_BQ[..., None], 0.0)
        content, position = self.queries[name](boxes_BQ4, features_BQC)
        ref_BQ4, extra = model.queries.place(boxes_BQ4, mem) if model.queries.places else (boxes_BQ4, {})
        extra = extra if position is None else {**extra, "query_pos": position}
        point = any(s.point for s in q.slots if s.group == "main")
        if point:
            ref_BQ4 = torch.cat([ref_BQ4[..., :2], torch.zeros_like(ref_BQ4[..., 2:])], -1)
        size = index_BQ.shape[1]
        given = replace(found.given, prior=Prior(boxes_BQ4, candidate_gt_BQ=prior.candidate_gt_BQ), valid_BQ=valid_BQ)
        seen_Q = valid_BQ.any(0)
        seen_Q = seen_Q | ~seen_Q.any()  # what fills up all images is seen by none, unless there is nothing else
        masks = {} if looked_at(seen_Q) and bool(seen_Q.all()) else {0: seen_Q.expand(size, size)}
        return Queries(content, ref_BQ4, (Slot(size, name, point=point),), masks, {name: given}, extra)

    def rules(self, host_rules: dict[str, Rule]) -> list[Rule]:
        """See :meth:`Strategy.rules`."""
        from detrex_ext.criterion import NumObjects, atss_rule, region_rule, rpn_rule
        from detrex_ext.criterion.normalizers import NumPairs
        from detrex_ext.matching import RoIMatcher

        main, pairs, factor = host_rules["main"], NumPairs(), self.head_weight * self.stages
        of_heads = {
            "atss": {"head": atss_rule(factor, 2 * factor, factor)},
            "roi": {"proposals": rpn_rule(256, factor, factor), "head": region_rule(factor, 10 * factor)},
        }

        def divisor(own: Normalizer) -> Normalizer:
            return pairs if isinstance(own, NumObjects) else own

        rules = []
        for name in self.names:
            rules += [replace(r, when={"group": name, "path": path}) for path, r in of_heads[name].items()]
            when = {"group": name, "path": "plain"}
            rules.append(main.weighted(self.weight, by=divisor, matcher=RoIMatcher("all"), when=when))
        return rules


def _strides(model: Detector) -> list[int]:
    """Pixels per cell of the memory's levels and of one more."""
    try:
        shapes, levels = model.backbone.output_shape(), model.neck.num_levels
        finest = min(shapes[name].stride for name in model.neck.in_features)
    except AttributeError as error:
        raise ValueError(f"collaborative heads need to know strides and levels of the maps: {error}") from None
    return [finest << level for level in range(levels + 1)]
