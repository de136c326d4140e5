"""The main queries answer one-to-one and one-to-many at once.

Source: "MS-DETR: Efficient DETR Training with Mixed Supervision", CVPR 2024, arXiv 2401.03989.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from detrex_ext.modeling.decoders import StagedDecoder
from detrex_ext.modeling.views import another, copied, require_layers, with_parts
from detrex_ext.structures import Memory, Queries, SupervisedSet
from detrex_ext.structures.placing import placed

from .base import Strategy

if TYPE_CHECKING:
    from detrex_ext.criterion import Rule
    from detrex_ext.matching import Matcher
    from detrex_ext.modeling.detector import Detector

NAMES = ("mixed_logits", "mixed_boxes")


class MixedSupervision(nn.Module, Strategy):
    """Every stage predicts from the main queries a second time, and several of them answer for an object there.

    Where a layer attends to the memory first (``model.decoder.cross_first``), what it has gathered goes through a
    feed-forward block of its own to the stage's heads (the authors' form b). In a layer of the usual order what it puts
    out goes to a class head of its own (their form a). No query is added.

    Args:
        matcher: who answers for which object; None: :class:`OneToManyMatcher` as published.
        own_ffn: whether there is that feed-forward block; without it the heads take what was gathered as it is.
        class_weight: weight of the added class term instead of the host's.
        weight: factor of the added losses.
    """

    reads = True

    def __init__(
        self,
        matcher: Matcher | None = None,
        own_ffn: bool = True,
        class_weight: float | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.matcher, self.own_ffn, self.class_weight, self.weight = matcher, own_ffn, class_weight, weight

    def attach(self, model: Detector) -> None:
        """See :meth:`Strategy.attach`."""
        layers = require_layers(model.decoder, "mixed supervision")
        self.within = getattr(model.decoder, "cross_first", False)
        own = [nn.Sequential(another(x.ffns[0]), another(x.norms[2])) for x in layers if self.within and self.own_ffn]
        self.ffns = nn.ModuleList(own)
        self.heads = nn.ModuleDict({} if self.within else {"class_embed": copied(model.decoder.class_embed)})

    def routes(self, decoder: StagedDecoder) -> Mapping[str, StagedDecoder]:
        """See :meth:`Strategy.routes`."""
        return {"mixed": with_parts(decoder, **self.heads)}

    def readout(self, decoder: StagedDecoder, layer: int, x: Queries, mem: Memory) -> Mapping[str, Tensor]:
        """See :meth:`Strategy.readout`; zero for all tokens but the main queries."""
        main = x.take("main", "plain")
        if self.within:
            content = main.extra["_crossed"]
            main = main.replace(content_BTC=self.ffns[layer](content) if self.ffns else content)
        found = decoder.routes["mixed"].predict(layer, main, mem)[:2]
        rows = [i for s, a, b in x.spans() if (s.group, s.path) == ("main", "plain") for i in range(a, b)]
        at, total = placed(rows, x.content_BTC, torch.int64), x.content_BTC.shape[1]
        zeros = [of.new_zeros(len(of), total, of.shape[-1]) for of in found]
        return {n: z.index_copy(1, at, of) for n, z, of in zip(NAMES, zeros, found, strict=True)}

    def after_stage(
        self, step: int, history: Sequence[Queries], sets: list[SupervisedSet], q: Queries
    ) -> tuple[list[SupervisedSet], Queries]:
        """See :meth:`Strategy.after_stage`."""
        logits, boxes = NAMES
        plain = [s for s in sets if (s.group, s.path) == ("main", "plain") and logits in s.outputs]
        added = [replace(s, path="mixed", logits_BQK=s.outputs[logits], boxes_BQ4=s.outputs[boxes]) for s in plain]
        return [*sets, *added], q

    def rules(self, host_rules: dict[str, Rule]) -> list[Rule]:
        """See :meth:`Strategy.rules`."""
        from detrex_ext.matching import OneToManyMatcher

        many = self.matcher or OneToManyMatcher(cap=0.25, conflict="one_class")
        when = {"group": "main", "path": "mixed"}
        return [host_rules["main"].weighted(self.weight, self.class_weight, matcher=many, when=when)]
