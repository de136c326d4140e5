"""The table of the contract: one row to add per host, strategy or source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from detrex_ext.criterion import (
    GIoUAwareLoss,
    Loss,
    MatchabilityLoss,
    PositionLoss,
    detr_rules,
    hybrid_rule,
    tsp_fcos_rules,
    tsp_rcnn_rules,
)
from detrex_ext.matching import (
    GIoUCost,
    HighOrderCost,
    HungarianMatcher,
    L1Cost,
    LateMatcher,
    Matcher,
    PositionClassCost,
)
from detrex_ext.modeling.backbones import BasicResNet
from detrex_ext.modeling.decoders import (
    AdaMixerDecoder,
    DABDecoder,
    DeformableDecoder,
    DETRDecoder,
    FCOSHead,
    RegionHead,
    TokenHead,
)
from detrex_ext.modeling.detector import Detector
from detrex_ext.modeling.encoders import (
    RPN,
    DeformableEncoder,
    DenseEncoder,
    FlattenEncoder,
    FoIEncoder,
    RoIEncoder,
)
from detrex_ext.modeling.necks import FPN, PAFPN, ChannelMapper, InputProj
from detrex_ext.modeling.postprocess import Postprocess
from detrex_ext.modeling.preprocess import Preprocess
from detrex_ext.modeling.queries import (
    AnchorQueries,
    DenoisingQueries,
    GroupQueries,
    HybridQueries,
    LearnedQueries,
    PositionQueries,
    TokenQueries,
    TwoStageQueries,
    WholeImageQueries,
)
from detrex_ext.strategies import (
    CollaborativeHeads,
    DivideAndConquer,
    MixedSupervision,
    MultiRoute,
    QueryRecollection,
    Strategy,
)
from detrex_ext.structures import Queries, SupervisedSet

CLASSES, QUERIES, LAYERS = 4, 6, 4


def narrow(source, groups, encoder=True, enc_objectness=False, **decoder) -> Detector:
    """A detector of the shipped parts, narrow, frozen norms, perturbed so that no head is at its zero start."""
    torch.manual_seed(0)
    levels = 4 if encoder else 3
    channels = {"res3": 8, "res4": 8, "res5": 8}
    neck = ChannelMapper(channels, 32, 4) if encoder else PAFPN(channels, 32, norm="FrozenBN")
    model = Detector(
        Preprocess(),
        BasicResNet((4, 8), (8, 8, 8, 8), norm="FrozenBN"),
        neck,
        DeformableEncoder(32, 2, levels, 2, 32, 0.0, 1) if encoder else FlattenEncoder(),
        source,
        DeformableDecoder(CLASSES, 32, 2, levels, 2, 32, 0.0, LAYERS, **decoder),
        Postprocess(20),
        CLASSES,
        rules=detr_rules(groups, enc_objectness),
    )
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model


def plain() -> Detector:
    return narrow(LearnedQueries(QUERIES, 32), ("main",), first_size_logit=-2.0)


def refine() -> Detector:
    return narrow(LearnedQueries(QUERIES, 32), ("main",), refine=True, first_size_logit=-2.0)


def two_stage() -> Detector:
    source = TwoStageQueries(CLASSES, QUERIES, 32)
    return narrow(source, ("main", "enc"), enc_objectness=True, refine=True)


def two_stage_denoising() -> Detector:
    source = DenoisingQueries(TwoStageQueries(CLASSES, QUERIES, 32), CLASSES, 32, groups=2)
    return narrow(source, ("main", "enc", "dn"), enc_objectness=True, refine=True)


def mixed_selection_denoising() -> Detector:
    options = {"content": "learned", "score": "max", "supervise": "selected", "anchor_size": 0.08}
    source = DenoisingQueries(TwoStageQueries(CLASSES, QUERIES, 32, **options), CLASSES, 32, number=4)
    return narrow(
        source, ("main", "enc", "dn"), encoder=False, refine=True, position="reference", look_forward_twice=True,
        post_norm=True,
    )  # fmt: skip


def dino() -> Detector:
    options = {"content": "learned", "score": "max", "supervise": "selected"}
    source = DenoisingQueries(TwoStageQueries(CLASSES, QUERIES, 32, **options), CLASSES, 32, number=8)
    return narrow(
        source, ("main", "enc", "dn"), refine=True, position="reference", look_forward_twice=True, post_norm=True
    )


def deformable_plus() -> Detector:
    source = TwoStageQueries(CLASSES, QUERIES, 32, content="mixed")
    return narrow(source, ("main", "enc"), enc_objectness=True, refine=True, look_forward_twice=True)


def dense(source, decoder, groups=("main",), softmax=False, **encoder) -> Detector:
    """A detector of one dense map, narrow and perturbed likewise."""
    torch.manual_seed(0)
    model = Detector(
        Preprocess(),
        BasicResNet((4, 8), (8, 8, 8, 8), norm="FrozenBN"),
        InputProj(8, 32),
        DenseEncoder(32, 2, 32, 0.0, 1, **encoder),
        source,
        decoder,
        Postprocess(None if softmax else 20),
        CLASSES,
        rules=detr_rules(groups, softmax=softmax),
    )
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model


def dab(source, groups=("main",)) -> Detector:
    decoder = DABDecoder(CLASSES, 32, 2, 32, 0.0, LAYERS)
    return dense(source, decoder, groups, temperature=20.0, scale_position=True, prelu=True)


def adamixer(denoising: bool = False) -> Detector:
    torch.manual_seed(0)
    channels = {f"res{i}": 8 for i in (2, 3, 4, 5)}
    source = WholeImageQueries(QUERIES, 32)
    model = Detector(
        Preprocess(size_divisor=32),
        BasicResNet((4, 8), (8, 8, 8, 8), out_features=list(channels), norm="FrozenBN"),
        ChannelMapper(channels, 32, shared_norm=True),
        FlattenEncoder(),
        DenoisingQueries(source, CLASSES, 32, number=4) if denoising else source,
        AdaMixerDecoder(CLASSES, 32, 2, 2, 3, 5, 32, LAYERS),
        Postprocess(20),
        CLASSES,
        rules=detr_rules(("main", "dn") if denoising else ("main",)),
    )
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
        for tower in model.decoder.class_embed:
            tower[-1].weight.mul_(0.2)  # logits of order one, for tolerances are absolute
    return model


def tsp_fcos(binary: bool = False, num_tokens: int | None = 40, **options) -> Detector:
    torch.manual_seed(0)
    channels = {f"res{i}": 8 for i in (3, 4, 5)}
    strides, head = (8, 16, 32, 64, 128), "binary" if binary else "classwise"
    model = Detector(
        Preprocess(size_divisor=32),
        BasicResNet((4, 8), (8, 8, 8, 8), norm="FrozenBN"),
        FPN(channels, 64, 5, norm="GN"),
        FoIEncoder(CLASSES, 64, 32, 2, 32, 0.0, 1, strides, 1, num_tokens=num_tokens, foi_head=head, **options),
        TokenQueries(),
        FCOSHead(CLASSES, 32, strides),
        Postprocess(20, nms=0.6, root=True),
        CLASSES,
        rules=tsp_fcos_rules(binary),
    )
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model


def tsp_rcnn(class_agnostic: bool = False, **options) -> Detector:
    torch.manual_seed(0)
    channels = {f"res{i}": 8 for i in (2, 3, 4, 5)}
    sizes = [[6.0 * 1.5**level, 8.0 * 1.5**level] for level in range(5)]  # no larger than the images, unlike published
    rpn = RPN(64, sizes=sizes, norm="GN", num_convs=1, num_proposals=40, num_candidates=(30, 30), num_samples=16)
    model = Detector(
        Preprocess(size_divisor=32),
        BasicResNet((4, 8), (8, 8, 8, 8), out_features=list(channels), norm="FrozenBN"),
        FPN(channels, 64, 6, norm="GN"),
        RoIEncoder(rpn, 64, 32, 2, 32, 0.0, 1, pool_size=3, num_samples=30, **options),
        TokenQueries(),
        RegionHead(CLASSES, 32, class_agnostic),
        Postprocess(20, nms=0.7),
        CLASSES,
        rules=tsp_rcnn_rules(),
    )
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model


def hybrid(model: Detector) -> Detector:
    """The same model with hybrid queries, a few for each object."""
    rule = hybrid_rule(model.rules["main"], times=2)
    return _around(model, lambda source: HybridQueries(source, 8), "hybrid", rule)


def group(model: Detector) -> Detector:
    """The same model with group queries, three groups in all."""
    return _around(model, lambda source: GroupQueries(source, 3), "group", model.rules["main"])


def restrict(model: Detector, matcher: Matcher) -> Detector:
    """The same two-stage model whose queries and proposals are matched by another rule."""
    for name in ("main", "enc"):
        model.rules[name] = replace(model.rules[name], matcher=matcher)
    model.use({})
    return model


def supervise(model: Detector, loss: Loss, matcher: Matcher | None = None) -> Detector:
    """The same model with another class loss everywhere, and another matcher where objects are not given."""
    for name, rule in model.rules.items():
        terms = {**rule.terms, "class": replace(rule.terms["class"], loss=loss)}
        own = rule.matcher if name == "dn" or matcher is None else matcher
        model.rules[name] = replace(rule, terms=terms, matcher=own)
    model.use({})
    return model


def mal(model: Detector) -> Detector:
    """The same model with DEIM's class loss."""
    return supervise(model, MatchabilityLoss())


def stable(model: Detector) -> Detector:
    """The same model with Stable-DINO's class loss and cost."""
    return supervise(model, PositionLoss(), HungarianMatcher([PositionClassCost(2.0), L1Cost(5.0), GIoUCost(2.0)]))


def high_order(model: Detector) -> Detector:
    """The same model with Rank-DETR's class loss and late matching."""
    late = LateMatcher(model.rules["main"].matcher, HungarianMatcher([HighOrderCost()]))
    return supervise(model, GIoUAwareLoss(), late)


def _around(model: Detector, wrap: Callable, name: str, rule) -> Detector:
    torch.manual_seed(0)
    if isinstance(model.queries, DenoisingQueries):
        model.queries.source = wrap(model.queries.source)
    else:
        model.queries = wrap(model.queries)
    model.rules[name] = replace(rule, when={"group": name})
    model.use({})
    return model


class Both(nn.Module, Strategy):
    """Several strategies as one."""

    def __init__(self, *strategies: Strategy) -> None:
        super().__init__()
        self.strategies = strategies
        self.owners = nn.ModuleList(s for s in strategies if isinstance(s, nn.Module))

    @property
    def reads(self):
        return any(s.reads for s in self.strategies)

    def attach(self, model):
        for s in self.strategies:
            s.attach(model)

    def routes(self, decoder):
        return {path: view for s in self.strategies for path, view in s.routes(decoder).items()}

    def begin(self, model, q, mem, targets):
        return model.begin(self.strategies, q, mem, targets)

    def readout(self, decoder, layer, x, mem):
        return {k: v for s in self.strategies for k, v in s.readout(decoder, layer, x, mem).items()}

    def plan(self, order):
        for s in self.strategies:
            order = s.plan(order)
        return order

    def after_stage(self, step, history, sets, q) -> tuple[list[SupervisedSet], Queries]:
        for s in self.strategies:
            sets, q = s.after_stage(step, history, sets, q)
        return sets, q

    def rules(self, host_rules):
        return [r for s in self.strategies for r in s.rules(host_rules)]


HOSTS: dict[str, Callable[[], Detector]] = {
    "deformable": plain,
    "deformable, refine": refine,
    "deformable, two-stage": two_stage,
    "deformable, two-stage, dn": two_stage_denoising,
    "deformable, no encoder, mixed, dn": mixed_selection_denoising,
    "deformable++": deformable_plus,
    "dino": dino,
    "detr": lambda: dense(PositionQueries(QUERIES, 32), DETRDecoder(CLASSES, 32, 2, 32, 0.0, LAYERS), softmax=True),
    "dab": lambda: dab(AnchorQueries(QUERIES, 32)),
    "dab, patterns": lambda: dab(AnchorQueries(QUERIES, 32, num_patterns=2)),
    "dab, dn": lambda: dab(DenoisingQueries(AnchorQueries(QUERIES, 32), CLASSES, 32, groups=2), ("main", "dn")),
    "adamixer": adamixer,
    "adamixer, dn": lambda: adamixer(denoising=True),
}

# hosts of one stage, on which most strategies make no sense
SET_HOSTS: dict[str, Callable[[], Detector]] = {
    "tsp-fcos": tsp_fcos,
    "tsp-fcos, binary": lambda: tsp_fcos(binary=True),
    "tsp-fcos, all points": lambda: tsp_fcos(num_tokens=None, token_keep=1.0),
    "tsp-rcnn": tsp_rcnn,
    "tsp-rcnn, one box for all classes": lambda: tsp_rcnn(True, coordinates=4, num_fc=2, fc_dim=16),
    "detr, encoder only": lambda: dense(TokenQueries(), TokenHead(CLASSES, 32), softmax=True),
}
ALL_HOSTS = {**HOSTS, **SET_HOSTS}
# proposals that do not cover each other: their number is known when they are found, on the host
COUNTED = tuple(host for host in SET_HOSTS if "rcnn" in host)

# matched without restriction, by a solver on the host
SOLVED = ("detr, encoder only",)

STRATEGIES: dict[str, Callable[[str], Strategy]] = {
    "none": lambda host: Strategy(),
    "sqr": lambda host: QueryRecollection(start_stage=2 if host == "deformable, refine" else 1),
    "sqr, one set at a time": lambda host: QueryRecollection(start_stage=2 if host == "deformable, refine" else 1),
    "sqr, lifted": lambda host: QueryRecollection(lift_points=True),
    "dqr": lambda host: QueryRecollection(window=None, lift_points=True),
    "dac": lambda host: DivideAndConquer(),
    "sqr + dac": lambda host: Both(QueryRecollection(lift_points=True), DivideAndConquer()),
    "hybrid": lambda host: Strategy(),
    "group": lambda host: Strategy(),
    "hybrid + sqr": lambda host: QueryRecollection(lift_points=True),
    "mal": lambda host: Strategy(),
    "stable": lambda host: Strategy(),
    "high_order": lambda host: Strategy(),
    "stable + hybrid + sqr": lambda host: QueryRecollection(lift_points=True),
    "mr": lambda host: MultiRoute(),
    "ms": lambda host: MixedSupervision(),
    "mr, one set at a time": lambda host: MultiRoute(),
    "mr + ms": lambda host: Both(MultiRoute(), MixedSupervision()),
    "hybrid + sqr + mr + dac + ms": lambda host: Both(
        QueryRecollection(lift_points=True), MultiRoute(), DivideAndConquer(), MixedSupervision()
    ),
    "group + mr + ms": lambda host: Both(MultiRoute(), MixedSupervision()),
    "co": lambda host: CollaborativeHeads(),
    "co, few": lambda host: CollaborativeHeads(num_queries=9),
    "co, both": lambda host: CollaborativeHeads(heads=("atss", "roi")),
    "co, one set at a time": lambda host: CollaborativeHeads(),
    "hybrid + sqr + mr + dac + ms + co": lambda host: Both(
        QueryRecollection(lift_points=True), MultiRoute(), DivideAndConquer(), MixedSupervision(), CollaborativeHeads()
    ),
}

SOURCES: dict[str, Callable[[Detector], Detector]] = {"hybrid": hybrid, "group": group}
LOSSES: dict[str, Callable[[Detector], Detector]] = {"mal": mal, "stable": stable, "high_order": high_order}
SOFTMAX = ("detr",)  # no class loss of a sigmoid
CHUNKS = {"sqr, one set at a time": 1, "mr, one set at a time": 1, "co, one set at a time": 1}
# strategies with parameters, and hosts of each kind on which the quick suite runs them
TRAINED, QUICK_TRAINED = ("mr", "ms", "co"), ("dino", "detr", "dab, dn", "adamixer")


def host_for(host: str, strategy: str) -> Detector:
    """A host with the queries that a column of the table names."""
    model = HOSTS[host]()
    for name in strategy.split(" + "):
        model = {**SOURCES, **LOSSES}.get(name, lambda same: same)(model)
    model.decoder.chunk = CHUNKS.get(strategy)
    return model
