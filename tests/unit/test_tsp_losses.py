"""Losses of TSP-FCOS and TSP-RCNN, each by loops from its formula."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tsp_scenes import SIZE, K, fcos, rcnn

from detrex_ext.criterion import SetCriterion, tsp_fcos_rules, tsp_rcnn_rules, tsp_token_rule
from detrex_ext.matching import HungarianMatcher, OneToManyMatcher
from detrex_ext.structures import Given, Prior, Targets

COUNTS = (5, 0, 9)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def focal(x, positive):
    p = sigmoid(x)
    return -0.25 * (1 - p) ** 2 * math.log(p) if positive else -0.75 * p**2 * math.log(1 - p)


def giou(pred, true, smooth):
    """Of ltrb distances with +1 (``smooth``), else of xyxy."""
    if smooth:
        near, far = [list(map(f, pred, true)) for f in (min, max)]
        area = [(x[0] + x[2]) * (x[1] + x[3]) for x in (near, far, pred, true)]
        inter, hull, union = area[0], area[1], area[2] + area[3] - area[0]
        return (inter + 1) / (union + 1) - (hull - union) / hull
    sides = [(min(pred[i + 2], true[i + 2]) - max(pred[i], true[i])) for i in (0, 1)]
    inter = max(sides[0], 0) * max(sides[1], 0)
    union = sum((x[2] - x[0]) * (x[3] - x[1]) for x in (pred, true)) - inter
    hull = math.prod(max(pred[i + 2], true[i + 2]) - min(pred[i], true[i]) for i in (0, 1))
    return inter / (union + 1e-7) - (hull - union) / (hull + 1e-7)


def pixels(targets):
    h, w = SIZE
    return [
        ((x - a / 2) * w, (y - b / 2) * h, (x + a / 2) * w, (y + b / 2) * h) for x, y, a, b in targets.boxes_G4.tolist()
    ]


class FCOSByHand:
    """Candidates of main's tokens by (image, token), with what the losses need of each."""

    def __init__(self, main, token, targets, giou_weight=2.0):
        self.main, self.token = main, token
        self.labels, objects = targets.labels_G.tolist(), pixels(targets)
        gt = main.given.prior.candidate_gt_BQ.tolist()
        self.gt = {(b, q): g for b, row in enumerate(gt) for q, g in enumerate(row) if g >= 0}
        self.ctr, self.giou, best = {}, {}, {}
        for (b, q), g in self.gt.items():
            x, y = main.given.prior.points_BQ2[b, q].tolist()
            s, (x, y) = float(main.given.prior.strides_BQ[b, q]), (x * SIZE[1], y * SIZE[0])
            x0, y0, x1, y1 = objects[g]
            true = [(x - x0) / s, (y - y0) / s, (x1 - x) / s, (y1 - y) / s]
            pairs = ((true[0], true[2]), (true[1], true[3]))
            self.ctr[b, q] = math.sqrt(math.prod(min(p) / max(p) for p in pairs))
            self.giou[b, q] = giou(main.outputs["ltrb"][b, q].tolist(), true, smooth=True)
            p = sigmoid(float(main.logits_BQK[b, q, self.labels[g]].detach()))
            cost = -p * (self.ctr[b, q] + 1e-6) + giou_weight * (1 - self.giou[b, q])
            best[g] = min(best.get(g, (math.inf,)), (cost, (b, q)))
        self.matched = {at: g for g, (_, at) in best.items()}

    def token_class(self):
        gt, total = self.token.given.prior.candidate_gt_BQ.tolist(), 0.0
        for b, image in enumerate(self.token.logits_BQK.tolist()):
            for p, logits in enumerate(image):
                c = self.labels[gt[b][p]] if gt[b][p] >= 0 else None
                total += sum(focal(x, len(logits) == 1 and c is not None or k == c) for k, x in enumerate(logits))
        return total / max(sum(g >= 0 for row in gt for g in row), 1)

    def main_class(self, denorm="mixed_2x", only_fg=True, everyone=False):
        total = 0.0
        for b, image in enumerate(self.main.logits_BQK.tolist()):
            for q, logits in enumerate(image):
                g, positive = self.gt.get((b, q)), (b, q) in (self.gt if everyone else self.matched)
                for k, x in enumerate(logits):
                    own = g is not None and k == self.labels[g]
                    soft = g is not None and not everyone and (own and not positive if only_fg else True)
                    total += (0.1 if soft else 1) * focal(x, own and positive)
        m, c = max(len(self.matched), 1), max(len(self.gt), 1)
        return total / {"all": c, "set": m, "mixed": m + 0.1 * c, "mixed_2x": 2 * (m + 0.1 * c)}[denorm]

    def box(self, on=None):
        on = self.gt if on is None else on
        return sum(self.ctr[at] * (1 - self.giou[at]) for at in on) / max(sum(self.ctr[at] for at in on), 1e-6)

    def centerness(self):
        total = 0.0
        for (b, q), t in self.ctr.items():
            p = sigmoid(float(self.main.outputs["centerness"][b, q].detach()))
            total -= t * math.log(p) + (1 - t) * math.log(1 - p)
        return total / max(len(self.gt), 1)


def losses(rules, sets, targets):
    return {k: float(v.detach()) for k, v in SetCriterion(rules)(sets, targets).items()}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("counts", [COUNTS, (12,), (1, 1)])
def test_tsp_fcos(counts, seed):
    main, token, targets, _ = fcos(counts, seed=seed)
    by = FCOSByHand(main, token, targets)
    found = losses(tsp_fcos_rules(), [token, main], targets)
    wanted = {
        "loss_class": by.main_class(), "loss_giou": by.box(), "loss_centerness": by.centerness(),
        "loss_class_token": by.token_class(),
    }  # fmt: skip
    assert found == pytest.approx(wanted, rel=1e-11) and by.matched.keys() < by.gt.keys()


@pytest.mark.parametrize("denorm", ["all", "set", "mixed", "mixed_2x"])
@pytest.mark.parametrize("only_fg", [True, False])
def test_what_classification_is_divided_by_and_whom_it_softens(denorm, only_fg):
    main, token, targets, _ = fcos(COUNTS)
    rules = tsp_fcos_rules(class_denorm=denorm, only_reweight_fg=only_fg)
    wanted = FCOSByHand(main, token, targets).main_class(denorm, only_fg)
    assert losses(rules, [main], targets)["loss_class"] == pytest.approx(wanted, rel=1e-11)


def test_boxes_of_matched_tokens_alone():
    main, token, targets, _ = fcos(COUNTS)
    by, found = FCOSByHand(main, token, targets), losses(tsp_fcos_rules(box_loss_on="matched"), [main], targets)
    assert found["loss_giou"] == pytest.approx(by.box(by.matched), rel=1e-11)
    assert found["loss_centerness"] == pytest.approx(by.centerness(), rel=1e-11)


def test_all_candidates_positive():
    main, token, targets, _ = fcos(COUNTS)
    by, found = FCOSByHand(main, token, targets), losses(tsp_fcos_rules(match="one_to_many"), [main], targets)
    assert found["loss_class"] == pytest.approx(by.main_class("all", everyone=True), rel=1e-11)
    assert found["loss_giou"] == pytest.approx(by.box(), rel=1e-11)


def test_a_classifier_of_objects_alone():
    main, token, targets, _ = fcos(COUNTS, binary=True)
    by, found = FCOSByHand(main, token, targets), losses(tsp_fcos_rules(binary=True), [token, main], targets)
    assert found["loss_class_token"] == pytest.approx(by.token_class(), rel=1e-11)
    assert found["loss_class"] == pytest.approx(by.main_class(), rel=1e-11)


class RCNNByHand:
    """Candidates of main's regions by (image, region), and the matched ones of each image."""

    def __init__(self, s, targets):
        self.s, self.labels, objects = s, targets.labels_G.tolist(), pixels(targets)
        gt = s.given.prior.candidate_gt_BQ.tolist()
        self.gt = {(b, q): g for b, row in enumerate(gt) for q, g in enumerate(row) if g >= 0}
        self.prob, self.giou, self.l1, best = s.logits_BQK.softmax(-1).tolist(), {}, {}, {}
        for (b, q), g in self.gt.items():
            c = self.labels[g]
            x0, y0, x1, y1 = s.outputs["class_boxes"][b, q, c].tolist()
            pred = (x0 * SIZE[1], y0 * SIZE[0], x1 * SIZE[1], y1 * SIZE[0])
            self.giou[b, q] = giou(pred, objects[g], smooth=False)
            cx, cy, w, h = s.given.prior.boxes_BQ4[b, q].tolist()
            tx, ty, tw, th = targets.boxes_G4[g].tolist()
            true = (10 * (tx - cx) / w, 10 * (ty - cy) / h, 5 * math.log(tw / w), 5 * math.log(th / h))
            self.l1[b, q] = sum(abs(x - y) for x, y in zip(s.outputs["deltas"][b, q, c].tolist(), true, strict=True))
            cost = -self.prob[b][q][c] + 2 * (1 - self.giou[b, q])
            best[g] = min(best.get(g, (math.inf,)), (cost, (b, q)))
        self.matched = {at: g for g, (_, at) in best.items()}

    def valid(self):
        valid = self.s.given.valid_BQ
        every = [(b, q) for b, row in enumerate(self.prob) for q in range(len(row))]
        return every if valid is None else [at for at in every if valid[at]]

    def main_class(self, positive=None, gamma=2.0):
        positive, total, by = self.matched if positive is None else positive, 0.0, 1e-6
        for b, q in self.valid():
            p, hit = self.prob[b][q], (b, q) in positive
            e = 1.0 if hit else 0.1
            f = 1.0 if hit or not gamma else gamma * (1 - p[-1]) ** gamma
            total, by = total - e * f * math.log(p[self.labels[positive[b, q]]] if hit else p[-1]), by + e
        return total / by

    def boxes(self, on=None, factor=1.0):
        on, regions = self.gt if on is None else on, len(self.valid())
        l1, by_giou = sum(self.l1[at] for at in on), sum(1 - self.giou[at] for at in on)
        return {"loss_bbox": factor * l1 / regions, "loss_giou": 2 * factor * by_giou / regions}


@pytest.mark.parametrize("padding", [0, 7])
@pytest.mark.parametrize("counts", [COUNTS, (12,), (1, 1)])
def test_tsp_rcnn(counts, padding):
    s, targets = rcnn(counts, padding=padding)
    by, found = RCNNByHand(s, targets), losses(tsp_rcnn_rules(), [s], targets)
    assert found == pytest.approx({"loss_class": by.main_class(), **by.boxes()}, rel=1e-11)
    assert by.matched.keys() < by.gt.keys()


def test_other_readings_of_tsp_rcnn():
    s, targets = rcnn(COUNTS)
    by = RCNNByHand(s, targets)
    found = losses(tsp_rcnn_rules(box_loss_on="matched"), [s], targets)
    assert found == pytest.approx({"loss_class": by.main_class(), **by.boxes(by.matched, 3.0)}, rel=1e-11)
    found = losses(tsp_rcnn_rules(match="one_to_many"), [s], targets)
    assert found == pytest.approx({"loss_class": by.main_class(by.gt, gamma=0), **by.boxes()}, rel=1e-11)


def test_boxes_that_know_no_class():
    s, targets = rcnn(COUNTS)
    one = replace(s, outputs={k: v[:, :, :1].expand_as(v) for k, v in s.outputs.items()})
    only = replace(s, outputs={k: v[:, :, :1] for k, v in s.outputs.items()})
    assert losses(tsp_rcnn_rules(), [only], targets) == pytest.approx(losses(tsp_rcnn_rules(), [one], targets))


def test_no_object_in_the_batch_leaves_background():
    """The authors' code makes token 80 positive of every class, or has no loss."""
    main, token, targets, _ = fcos((0, 0))
    found = losses(tsp_fcos_rules(), [token, main], targets)
    background = sum(focal(x, False) for x in main.logits_BQK.flatten().tolist())
    every = sum(focal(x, False) for x in token.logits_BQK.flatten().tolist())
    assert found == pytest.approx({
        "loss_class": background / 2.2, "loss_giou": 0, "loss_centerness": 0, "loss_class_token": every
    }, rel=1e-11)  # fmt: skip
    for s, targets in (rcnn((0, 0)), rcnn((3, 2), far=True)):
        by, found = RCNNByHand(s, targets), losses(tsp_rcnn_rules(), [s], targets)
        assert not by.gt and found == pytest.approx({"loss_class": by.main_class(), "loss_bbox": 0, "loss_giou": 0})
        assert losses(tsp_rcnn_rules(empty="nothing"), [s], targets)["loss_class"] == 0 < found["loss_class"]


def test_objects_without_candidates_are_left_out():
    main, token, targets, _ = fcos(COUNTS)
    gt_BQ = main.given.prior.candidate_gt_BQ
    gone = int(gt_BQ[gt_BQ >= 0][0])
    prior = replace(main.given.prior, candidate_gt_BQ=gt_BQ.where(gt_BQ != gone, -1))
    main = replace(main, given=replace(main.given, prior=prior))
    by = FCOSByHand(main, token, targets)
    assert gone not in by.matched.values()
    assert losses(tsp_fcos_rules(), [main], targets)["loss_class"] == pytest.approx(by.main_class(), rel=1e-11)


RULES = {
    "fcos": [tsp_fcos_rules(match=m) for m in ("restricted", "hungarian", "one_to_many")],
    "rcnn": [tsp_rcnn_rules(match=m) for m in ("restricted", "hungarian", "one_to_many")],
}
RULES["fcos"] += [tsp_fcos_rules(matcher=m) for m in (HungarianMatcher(), OneToManyMatcher())]
RULES["rcnn"] += [tsp_rcnn_rules(matcher=HungarianMatcher(cost_class_type="ce_cost")), tsp_rcnn_rules(empty="nothing")]


@pytest.mark.parametrize("counts", [COUNTS, (0, 0), ()])
@pytest.mark.parametrize(("host", "rules"), [(h, r) for h, rules in RULES.items() for r in rules])
def test_every_choice_is_finite_and_has_gradients(host, rules, counts):
    sets, targets = [], None
    if host == "fcos":
        main, token, targets, _ = fcos(counts or (0,), tokens=20)
        sets = [token, main]
        leaves = [main.logits_BQK, token.logits_BQK, *main.outputs.values()]
    else:
        s, targets = rcnn(counts or (0,), padding=5)
        sets, leaves = [s], [s.logits_BQK, s.outputs["deltas"]]
    if not counts:  # a batch of no images
        sets = [replace(s, logits_BQK=s.logits_BQK[:0], boxes_BQ4=s.boxes_BQ4[:0], given=_none(s.given)) for s in sets]
        sets = [replace(s, outputs={k: v[:0] for k, v in s.outputs.items()}) for s in sets]
        targets = Targets((torch.zeros(0, dtype=torch.int64),), (torch.zeros(0, 4),), torch.ones(0, 2))
    found = SetCriterion(rules)(sets, targets)
    grads = torch.autograd.grad(sum(found.values()), leaves, allow_unused=True)
    assert all(torch.isfinite(g).all() for g in grads if g is not None) and grads[0] is not None
    if sum(counts):
        assert all(v > 0 for v in found.values()) and grads[0].abs().sum() > 0


def _none(given):
    prior = Prior(*(None if x is None else x[:0] for x in vars(given.prior).values()))
    return Given(prior=prior, valid_BQ=None if given.valid_BQ is None else given.valid_BQ[:0])


def test_gradients():
    main, token, targets, _ = fcos((3, 1), tokens=8)
    leaves = (main.logits_BQK, token.logits_BQK[:, :20].detach().requires_grad_(), *main.outputs.values())
    few = replace(token.given, prior=Prior(None, *(x[:, :20] for x in list(vars(token.given.prior).values())[1:])))
    criterion = SetCriterion(tsp_fcos_rules())

    def of_fcos(logits, dense, ltrb, centerness):
        sets = [
            replace(main, logits_BQK=logits, outputs={"ltrb": ltrb, "centerness": centerness}),
            replace(token, logits_BQK=dense, boxes_BQ4=token.boxes_BQ4[:, :20], given=few),
        ]
        return sum(criterion(sets, targets).values())

    assert torch.autograd.gradcheck(of_fcos, leaves)
    s, objects = rcnn((2, 1), regions=8, padding=2)
    boxes = s.outputs["class_boxes"].detach().requires_grad_()
    regions = SetCriterion(tsp_rcnn_rules(gamma=0.0))  # its factor has no gradient by intent

    def of_rcnn(logits, deltas, class_boxes):
        outputs = {"deltas": deltas, "class_boxes": class_boxes}
        return sum(regions([replace(s, logits_BQK=logits, outputs=outputs)], objects).values())

    assert torch.autograd.gradcheck(of_rcnn, (s.logits_BQK, s.outputs["deltas"].detach().requires_grad_(), boxes))


def test_easy_background_is_weighted_without_a_gradient():
    s, targets = rcnn((0,), regions=1)
    logits = torch.zeros(1, 1, K + 1, dtype=torch.float64, requires_grad=True)
    s = replace(s, logits_BQK=logits)
    SetCriterion(tsp_rcnn_rules(bbox_weight=0.0))([s], targets)["loss_class"].backward()
    share = 0.1 / (0.1 + 1e-6) * 2 * 0.75**2
    torch.testing.assert_close(logits.grad[0, 0], share * torch.tensor([0.25, 0.25, 0.25, -0.75], dtype=torch.float64))


def test_wrong_hosts_and_words_are_refused():
    main, token, targets, _ = fcos(COUNTS)
    s, objects = rcnn(COUNTS)
    with pytest.raises(ValueError, match="RegionSoftmaxLoss is for a softmax"):
        SetCriterion(tsp_rcnn_rules())([replace(s, softmax=False)], objects)
    with pytest.raises(ValueError, match="no output 'ltrb'"):
        SetCriterion(tsp_fcos_rules())([replace(main, outputs={})], targets)
    with pytest.raises(ValueError, match="names no candidates"):
        SetCriterion(tsp_fcos_rules(matcher=HungarianMatcher()))([replace(main, given=Given())], targets)
    for bad in ({"match": "best"}, {"box_loss_on": "all"}, {"class_denorm": "none"}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))} must be one of"):
            tsp_fcos_rules(**bad)
    with pytest.raises(ValueError, match="empty must be"):
        tsp_rcnn_rules(empty="none")


def test_the_rule_of_points_takes_any_matcher():
    assert isinstance(tsp_token_rule(matcher=HungarianMatcher()).matcher, HungarianMatcher)
