"""Losses, pairs and gradients of DEIM, Stable-DINO and Rank-DETR by their own criteria and matchers, in double.

``DETREX_EXT_DEIM``, ``DETREX_EXT_STABLE_DINO`` and ``DETREX_EXT_RANK_DETR`` name the checkouts.
"""

from __future__ import annotations

import pytest
import torch

from detrex_ext.matching import (
    GIoUCost,
    HighOrderCost,
    HungarianMatcher,
    L1Cost,
    PositionClassCost,
    resolve,
    stack_sets,
)
from detrex_ext.structures import SupervisedSet, Targets

from .forced import cuda_is_the_cpu, in_double
from .gaps import far, relative, within
from .peer_quality import CLASSES, GROUPS, QUERIES, STAGES, as_theirs, denoised, leaves, official, our_losses, scene
from .whole import theirs

COUNTS = {"one": (1,), "some without": (3, 0, 5), "many": (6, 7)}
EACH = pytest.mark.parametrize("counts", COUNTS.values(), ids=list(COUNTS))
SEED = pytest.mark.parametrize("seed", range(5))
TERMS = ("class", "bbox", "giou")
NO_EPS = ("model.rules.main.matcher.costs.2.eps=0", "model.rules.main.terms.giou.loss.eps=0")  # of DEIM's boxes


def compare(what, found, wanted, made, groups, names):
    """Losses by name, and the gradient of their sum in every logit and box."""
    inputs = leaves(made, *groups)
    for ours, (theirs_value, weight) in names.items():
        within(f"{what}: losses", relative(found.stats[ours], weight * theirs_value), 1e-6)
    total = sum(weight * value for value, weight in names.values())
    mine, their = (torch.autograd.grad(x, inputs, allow_unused=True) for x in (sum(found.values()), total))
    for a, b in zip(mine, their, strict=True):
        assert (a is None) == (b is None)
        within(f"{what}: gradients", 0.0 if a is None else far(a, b) / float(b.abs().max()), 1e-6)


def names_of(wanted, weights, keys):
    """(our statistic: (their loss, weight)) of {(stage, group): the end of their names}."""
    found = {}
    for (stage, group), end in keys.items():
        for term in TERMS:
            name = f"loss_{term}" + ("" if group == "main" else f"_{group}")
            weight = weights[group] if term == "class" else {"bbox": 5.0, "giou": 2.0}[term]
            found[f"stage{stage}/{name}"] = wanted[f"loss_{term}{end}"], weight
    return found


@SEED
@EACH
def test_deim(counts, seed):
    criterion, matcher = official("DEIM", "deim_criterion", "matcher")
    targets, made = scene(counts, seed)
    weights = {"loss_mal": 1, "loss_bbox": 5, "loss_giou": 2}
    theirs_matcher = matcher.HungarianMatcher({"cost_class": 2, "cost_bbox": 5, "cost_giou": 2}, True, 0.25, 2.0)
    judge = criterion.DEIMCriterion(theirs_matcher, weights, ["mal", "boxes"], 0.75, 1.5, CLASSES, use_uni_set=False)
    enc = {"enc_aux_outputs": [as_theirs(made["enc"])], "enc_meta": {"class_agnostic": False}}
    known = as_theirs(made["dn"])
    meta = {"dn_positive_idx": denoised(targets)[1], "dn_num_group": GROUPS}
    with in_double():
        wanted = judge({**as_theirs(made["main"]), **enc, "dn_outputs": [*known["aux_outputs"], known],
                        "dn_meta": meta}, theirs(targets))  # fmt: skip
    wanted = {name.replace("mal", "class"): value for name, value in wanted.items()}
    keys = {(i, "main"): "" if i == STAGES - 1 else f"_aux_{i}" for i in range(STAGES)}
    keys |= {(-1, "enc"): "_enc_0", **{(i, "dn"): f"_dn_{i}" for i in range(STAGES)}}
    names = names_of(wanted, dict.fromkeys(("main", "enc", "dn"), 1.0), keys)
    names = {ours: (value, 1.0) for ours, (value, _) in names.items()}  # theirs are weighted
    found = our_losses("deim_dino_r50_4scale_12ep_mal", made, targets, NO_EPS)
    compare("DEIM", found, wanted, made, ("main", "enc", "dn"), names)


@SEED
@EACH
def test_stable_dino(counts, seed):
    criterion, matcher = official("Stable-DINO", "dn_criterion", "matcher")
    targets, made = scene(counts, seed, spread=1.0)  # theirs has 1e-8 inside a logarithm of 1 - p
    judge = criterion.StableDINOCriterion(
        CLASSES, matcher.StableDINOHungarianMatcher(2, 5, 2, cec_beta=0.5), {}, ta_alpha=0.0, ta_beta=2.0
    ).train()
    outputs = {**as_theirs(made["main"]), "enc_outputs": as_theirs(made["enc"])}
    meta = {"output_known_lbs_bboxes": as_theirs(made["dn"]), "dn_num": GROUPS,
            "single_padding": 2 * max(targets.counts)}  # fmt: skip
    with cuda_is_the_cpu(), in_double():
        wanted = judge(outputs, theirs(targets), meta)
    ends = {i: "" if i == STAGES - 1 else f"_{i}" for i in range(STAGES)}
    keys = {(i, "main"): end for i, end in ends.items()} | {(-1, "enc"): "_enc"}
    keys |= {(i, "dn"): f"_dn{end}" for i, end in ends.items()}
    names = names_of(wanted, {"main": 6.0, "enc": 6.0, "dn": 1.0}, keys)
    found = our_losses("stable_dino_r50_4scale_12ep", made, targets)
    compare("Stable-DINO", found, wanted, made, ("main", "enc", "dn"), names)


@pytest.mark.parametrize("iteration", [0, 67499, 67500, 89999])
@SEED
@EACH
def test_rank_detr(counts, seed, iteration):
    criterion, matcher = official("Rank-DETR", "rankdetr_criterion", "high_order_matcher")
    targets, made = scene(counts, seed)
    judge = criterion.RankDetrCriterion(CLASSES, matcher.HighOrderMatcher(2, 5, 2), {}).train()
    judge.matcher.iter = iteration
    hybrid = as_theirs(made["dn"])  # as many as there are; matched with each object twice
    with in_double():
        wanted = judge({**as_theirs(made["main"]), "enc_outputs": as_theirs(made["enc"])}, theirs(targets))
        many = judge(hybrid, theirs(targets, 2))
    wanted |= {f"{name}_many": value for name, value in many.items()}
    ends = {i: "" if i == STAGES - 1 else f"_{i}" for i in range(STAGES)}
    keys = {(i, "main"): end for i, end in ends.items()} | {(-1, "enc"): "_enc"}
    keys |= {(i, "hybrid"): f"{end}_many" for i, end in ends.items()}
    names = names_of(wanted, dict.fromkeys(("main", "enc", "hybrid"), 2.0), keys)
    made["hybrid"] = made.pop("dn")
    found = our_losses("rank_detr_r50_300q_12ep", made, targets, ["model.rules.hybrid.times=2"], iteration / 90000)
    compare("Rank-DETR", found, wanted, made, ("main", "enc", "hybrid"), names)


def pairs(matcher, logits, boxes, targets):
    found = resolve([matcher.match(stack_sets([SupervisedSet(logits, boxes, 0)]), targets)], "cpu")[0].cls
    return [
        (found.query_P[found.img_P == b], found.gt_P[found.img_P == b] - start)
        for b, start in enumerate(targets.offsets_B.tolist())
    ]


@pytest.mark.parametrize("project", ["Stable-DINO", "Rank-DETR"])
def test_pairs_of_a_thousand_images(project):
    """One image at a time, with boxes and classes at random."""
    module, total = official(project, "matcher" if project == "Stable-DINO" else "high_order_matcher")[0], 0
    if project == "Stable-DINO":
        their = module.StableDINOHungarianMatcher(2, 5, 2, cec_beta=0.5)
        ours = HungarianMatcher([PositionClassCost(2.0), L1Cost(5.0), GIoUCost(2.0)])
    else:
        their, ours = module.HighOrderMatcher(2, 5, 2), HungarianMatcher([HighOrderCost()])
        their.iter = their.matcher_change_iter
    g = torch.Generator().manual_seed(7)
    for _ in range(1000):
        n = int(torch.randint(0, 12, (1,), generator=g))
        logits = 2 * torch.randn(1, QUERIES, CLASSES, generator=g, dtype=torch.float64)
        boxes = 0.3 + 0.4 * torch.rand(1, QUERIES, 4, generator=g, dtype=torch.float64)
        own = 0.3 + 0.4 * torch.rand(n, 4, generator=g, dtype=torch.float64)
        targets = Targets((torch.randperm(CLASSES, generator=g)[:n],), (own,), torch.ones(1, 2))
        if not n and project == "Stable-DINO":  # theirs fails
            continue
        (wanted,) = their({"pred_logits": logits, "pred_boxes": boxes}, theirs(targets))
        (found,) = pairs(ours, logits, boxes, targets)
        assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1])
        total += n
    assert total > 4000
