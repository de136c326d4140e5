"""Our matchers, losses and suppression against the official; ``DETREX_EXT_DAC`` names a checkout of it."""

from __future__ import annotations

import pytest
import torch

from detrex_ext.criterion import SetCriterion
from detrex_ext.matching import OneToManyMatcher, stack_sets
from detrex_ext.modeling.postprocess import Postprocess
from detrex_ext.structures import Given, Pairs, Prior, SupervisedSet, Targets

from .forced import in_double
from .peer_dac import (
    compare,
    criterion,
    objects,
    official_package,
    our_rules,
    published_weight,
    skip_without_checkout,
)
from .whole import theirs

skip_without_checkout()
STAGES, Q, K, GROUPS = 6, 40, 91, 3


@pytest.fixture(scope="module")
def official():
    with official_package() as package:
        yield package


def predictions(targets, g, size=Q, K=K):
    """Logits and boxes, every second box near an object."""
    B = len(targets.counts)
    boxes = 0.2 + 0.4 * torch.rand(B, size, 4, generator=g, dtype=torch.float64)
    for b, own in enumerate(targets.boxes):
        if len(own):
            at = torch.arange(0, size, 2)
            noise = 0.1 * (torch.rand(len(at), 4, generator=g, dtype=torch.float64) - 0.5)
            boxes[b, at] = own[at % len(own)] + noise
    return 2 * torch.randn(B, size, K, generator=g, dtype=torch.float64), boxes


def test_assignment_of_2000_images(official):
    assigner, ours = official.onetomany.Stage2Assigner(300), OneToManyMatcher()
    g, total = torch.Generator().manual_seed(0), 0
    for _ in range(40):
        targets = objects(torch.randint(0, 8, (50,), generator=g).tolist(), g)
        logits, boxes = predictions(targets, g)
        found, _ = assigner({"pred_logits_cdecoder": logits, "pred_boxes": boxes}, theirs(targets))
        box = ours.match(stack_sets([SupervisedSet(logits, boxes, 0)]), targets).box
        start = 0
        for b, (query, gt) in enumerate(found):
            mine = box.valid_P & (box.img_P == b)
            assert torch.equal(box.query_P[mine], query) and torch.equal(box.gt_P[mine] - start, gt)
            start += targets.counts[b]
            total += len(query)
    assert total > 10000


def test_the_cap_draws_from_the_same_distribution(official):
    """How many queries each object takes, over many draws for one image of which more than the cap are candidates."""
    g, draws = torch.Generator().manual_seed(1), 1500
    targets = objects((3,), g)
    logits, boxes = predictions(targets, g)
    boxes[0, 1::2] = boxes[0, 0::2] + 0.02 * torch.rand(Q // 2, 4, generator=g, dtype=torch.float64)
    assigner = official.onetomany.Stage2Assigner(Q, max_k=Q)  # a quarter of its argument is the cap
    outputs = {"pred_logits_cdecoder": logits.repeat(draws, 1, 1), "pred_boxes": boxes.repeat(draws, 1, 1)}
    torch.manual_seed(0)
    wanted = [gt.bincount(minlength=3) for _, gt in assigner(outputs, theirs(targets) * draws)[0]]
    many = Targets(targets.labels * draws, targets.boxes * draws, torch.ones(draws, 2))
    one = SupervisedSet(outputs["pred_logits_cdecoder"], outputs["pred_boxes"], 0)
    found = OneToManyMatcher(k=Q, cap=Q // 4).match(stack_sets([one]), many).box
    found = found.valid_P.view(draws, 3, Q).sum(-1)
    wanted = torch.stack(wanted)
    free = OneToManyMatcher(k=Q, cap=None).match(stack_sets([one]), many).box.valid_P.view(draws, 3, Q).sum(-1)
    assert (found.sum(1) == Q // 4).all() and (wanted.sum(1) == Q // 4).all() and (free.sum(1) > Q // 4).all()
    for n in range(3):
        for count in range(Q // 4 + 1):
            a, b = ((x[:, n] == count).double().mean() for x in (found, wanted))
            spread = ((a + b) / 2 * (1 - (a + b) / 2) * 2 / draws).sqrt()
            assert (a - b).abs() <= 4 * spread, (n, count, a, b)


def test_detas_rule_on_first_boxes(official):
    """The same file holds DETA's assigner of anchors; the best k of each object, which it leaves out, are beside it."""
    assigner, g, total = official.onetomany.Stage1Assigner(), torch.Generator().manual_seed(4), 0
    ours = OneToManyMatcher(k=4, threshold=0.7, w_iou=1.0, w_cls=0.0, cap=128, boxes="prior")
    for _ in range(10):
        targets = objects(torch.randint(1, 8, (50,), generator=g).tolist(), g)
        logits, anchors = predictions(targets, g)
        given = Given(prior=Prior(anchors))
        box = ours.match(stack_sets([SupervisedSet(logits, 1 - anchors, 0, given=given)]), targets).box
        for b, pair in enumerate(assigner({"anchors": anchors}, theirs(targets))):
            corners = official.onetomany.box_cxcywh_to_xyxy
            iou = official.onetomany.box_iou(corners(targets.boxes[b]), corners(anchors[b]))[0]
            query, gt = assigner.postprocess_indices(*pair, iou)
            mine = box.valid_P & (box.img_P == b)
            assert torch.equal(box.query_P[mine], query)
            assert torch.equal(box.gt_P[mine] - targets.offsets_B[b], gt)
            total += len(query)
    assert total > 2000


def known_pairs(targets):
    most = max(targets.counts)
    rows = [
        (0, b, r * 2 * most + i, start + i)
        for r in range(GROUPS)
        for b, start in enumerate(targets.offsets_B.tolist())
        for i in range(targets.counts[b])
    ]
    return Pairs(*torch.tensor(rows).T), 2 * most * GROUPS


def as_theirs(stages):
    """Their nested outputs of [{suffix: (logits, boxes)}] by stage."""
    flat = [
        {
            f"pred_{kind}{name}": x
            for name, pair in one.items()
            for kind, x in zip(("logits", "boxes"), pair, strict=True)
        }
        for one in stages
    ]
    return {**flat[-1], "aux_outputs": flat[:-1]}


def test_all_75_losses(official):
    g = torch.Generator().manual_seed(3)
    targets = objects((4, 0, 7), g)
    pairs, pad = known_pairs(targets)
    given = Given(pairs, float(GROUPS))
    kinds = {("main", "plain"): "", ("main", "aux"): "_cdecoder"}
    stages = [{name: predictions(targets, g) for name in kinds.values()} for _ in range(STAGES)]
    known = [{name: predictions(targets, g, pad) for name in kinds.values()} for _ in range(STAGES)]
    enc = predictions(targets, g, 60)
    meta = {"output_known_lbs_bboxes": as_theirs(known), "num_dn_group": GROUPS, "pad_size": pad}
    outputs = {**as_theirs(stages), "dn_meta": meta, "dn_meta_cdecoder": meta}
    outputs["enc_outputs"] = as_theirs([dict.fromkeys(kinds.values(), enc)])
    with in_double():  # its rank weights are of single precision
        wanted = criterion(official)(outputs, theirs(targets), theirs(targets, 3))

    sets = [SupervisedSet(*enc, -1, "enc")]
    for i in range(STAGES):
        for (group, path), name in kinds.items():
            main = stages[i][""][1] if path == "aux" else None
            sets.append(SupervisedSet(*stages[i][name], i, group, path, match_boxes_BQ4=main))
            sets.append(SupervisedSet(*known[i][name], i, "dn", path, given))
    found = SetCriterion(our_rules())(sets, targets).stats
    compare("DAC-DETR, float64: losses of random sets", found, wanted, published_weight, STAGES, 1e-12)


def test_suppression_at_test_time(official):
    """Their post-processing keeps boxes that leave the image as they are; ours are clipped."""
    g = torch.Generator().manual_seed(2)
    targets = objects((6, 3), g)
    logits, boxes = predictions(targets, g, 150)
    sizes = [(480, 640), (600, 400)]
    wanted = official.deformable_detr.NMSPostProcess()(
        {"pred_logits": logits.float(), "pred_boxes": boxes.float()}, torch.tensor(sizes)
    )
    named = [{"height": h, "width": w} for h, w in sizes]
    found = Postprocess(300, nms=0.8)([SupervisedSet(logits, boxes, 0)], torch.tensor(sizes), named)
    bare = Postprocess(300)([SupervisedSet(logits, boxes, 0)], torch.tensor(sizes), named)
    for ours, one, plain, (h, w) in zip(found, wanted, bare, sizes, strict=True):
        instances = ours["instances"]
        assert torch.equal(instances.pred_classes, one["labels"]) and torch.equal(instances.scores, one["scores"])
        inside = one["boxes"].clamp(min=0).minimum(torch.tensor([w, h, w, h]))
        torch.testing.assert_close(instances.pred_boxes.tensor, inside, rtol=0, atol=1e-3)
        assert not torch.equal(instances.scores, plain["instances"].scores)
