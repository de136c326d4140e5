"""Two more routes through the decoder in training, each supervised one-to-many.

Source: "Mr. DETR: Instructive Multi-Route Training for Detection Transformers", CVPR 2025, arXiv 2412.10028.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from detrex_ext.layers.instructed_attention import InstructedAttention
from detrex_ext.modeling.decoders import StagedDecoder
from detrex_ext.modeling.queries import TwoStageQueries, host_source
from detrex_ext.modeling.views import another, copied, require_layers, with_first, with_parts
from detrex_ext.structures import Memory, Queries, SupervisedSet, Targets, cat

from .base import Strategy

if TYPE_CHECKING:
    from detrex_ext.criterion import Rule
    from detrex_ext.matching import Matcher
    from detrex_ext.modeling.detector import Detector

PATHS = ("instructed", "separate")


class MultiRoute(nn.Module, Strategy):
    """Queries pass the decoder twice more, and on both routes several of them answer for an object.

    On the route ``instructed`` learned tokens, of each layer its own, stand before the queries in self-attention, and
    a norm of this route follows. Its queries are proposals of the encoder by a second head, or the main ones where the
    host makes no proposals. The route ``separate`` takes the main queries through feed-forward blocks of its own. All
    else is shared. Denoising queries are beside them on both, with their given pairs. Neither route enters what other
    strategies add.

    Args:
        matcher: who answers for which object on both routes; None: :class:`OneToManyMatcher` as published.
        num_tokens: learned tokens of a layer.
        denoising: denoising queries pass the routes too.
        weight: factor of their losses, those of the second proposals among them.
        norm_factor: losses of the main queries on the routes are divided by so many times what the host divides by.
    """

    def __init__(
        self,
        matcher: Matcher | None = None,
        num_tokens: int = 10,
        denoising: bool = True,
        weight: float = 1.0,
        norm_factor: float = 1.0,
    ) -> None:
        super().__init__()
        if num_tokens < 1:
            raise ValueError(f"num_tokens must be at least 1, got {num_tokens}")
        if norm_factor <= 0:
            raise ValueError(f"norm_factor must be positive, got {norm_factor}")
        self.matcher, self.num_tokens, self.weight, self.norm_factor = matcher, num_tokens, weight, norm_factor
        self.groups = ("main", "dn") if denoising else ("main",)

    def attach(self, model: Detector) -> None:
        """See :meth:`Strategy.attach`."""
        layers = require_layers(model.decoder, "multi-route training")
        size = self.num_tokens, model.dim
        for name in ("tokens", "places"):
            setattr(self, name, nn.ParameterList(nn.init.xavier_uniform_(torch.empty(size)) for _ in layers))
        self.norms = nn.ModuleList(another(layer.norms[0]) for layer in layers)
        self.ffns = nn.ModuleList(another(layer.ffns[0]) for layer in layers)
        source = host_source(model.queries)
        heads = ("class_embed", "bbox_embed") if isinstance(source, TwoStageQueries) else ()
        self.heads = nn.ModuleDict({name: copied(getattr(source, name)) for name in heads})

    def routes(self, decoder: StagedDecoder) -> Mapping[str, StagedDecoder]:
        """See :meth:`Strategy.routes`."""
        layers = {path: nn.ModuleList() for path in PATHS}
        for layer, *own, norm, ffn in zip(decoder.layers, self.tokens, self.places, self.norms, self.ffns, strict=True):
            attention = InstructedAttention(layer.attentions[0], *own)
            layers["instructed"].append(with_first(layer, attentions=attention, norms=norm))
            layers["separate"].append(with_first(layer, ffns=ffn))
        return {path: with_parts(decoder, layers=of) for path, of in layers.items()}

    def begin(
        self, model: Detector, q: Queries, mem: Memory, targets: Targets | None
    ) -> tuple[list[SupervisedSet], Queries]:
        """See :meth:`Strategy.begin`."""
        host = first = q.take(self.groups, "plain")
        sets: list[SupervisedSet] = []
        if self.heads:
            found, sets = with_parts(host_source(model.queries), **self.heads)(mem, targets)
            # denoising queries come before the main ones, in their domain and under its mask
            known = [host.take("dn")] if "dn" in host.given else []
            first = cat(*known, found.take("main")).replace(slots=host.slots, masks=host.masks)
        added = [x.retag(path=path) for path, x in zip(PATHS, (first, host), strict=True)]
        return [replace(s, path="instructed") for s in sets], cat(*added, q)

    def rules(self, host_rules: dict[str, Rule]) -> list[Rule]:
        """See :meth:`Strategy.rules`."""
        from detrex_ext.matching import OneToManyMatcher

        many = self.matcher or OneToManyMatcher(cap=225, conflict="one_class")
        own = {"main": {"factor": self.weight / self.norm_factor, "matcher": many}, "enc": {}, "dn": {}}
        own = {g: {"factor": self.weight, **of} for g, of in own.items() if g in host_rules}
        return [host_rules[g].weighted(**of, when={"group": g, "path": PATHS}) for g, of in own.items()]
