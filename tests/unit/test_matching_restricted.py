"""The restricted choice against an optimal assignment on the same graph; whose rules name the candidates."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from by_loops import iou
from no_values import without_values
from pyramids import objects, pyramid
from scipy.optimize import linear_sum_assignment

from detrex_ext.layers.fcos_targets import fcos_targets, level_ranges
from detrex_ext.layers.roi_targets import roi_targets
from detrex_ext.layers.segments import first_least
from detrex_ext.matching import FCOSMatcher, RepeatedMatcher, RestrictedMatcher, RoIMatcher, stack_sets
from detrex_ext.structures import Given, Prior, SupervisedSet, Targets

K = 3


class Known(RestrictedMatcher):
    """Candidates and costs that are given."""

    def __init__(self, gt_BQ, cost_NBQ, **options):
        super().__init__(**options)
        self.gt_BQ, self.cost_NBQ = gt_BQ, cost_NBQ

    def find(self, stack, targets):
        return self.gt_BQ

    def cost(self, stack, targets, gt_BQ):
        return self.cost_NBQ


def scene(counts, Q, N=1, seed=0, softmax=False, given=None, size=(480, 640), dtype=torch.float32):
    """N sets of random predictions and the objects of as many images as there are counts."""
    g, B = torch.Generator().manual_seed(seed), len(counts)

    def some(n):
        return torch.cat([torch.rand(n, 2, generator=g), 0.1 + 0.3 * torch.rand(n, 2, generator=g)], 1)

    boxes = tuple(some(n) for n in counts)
    labels = tuple(torch.randint(0, K, (n,), generator=g) for n in counts)
    targets = Targets(labels, tuple(b.to(dtype) for b in boxes), torch.tensor([size] * B, dtype=dtype))
    sets = []
    for stage in range(N):
        pred = 0.1 + 0.4 * torch.rand(B, Q, 4, generator=g, dtype=dtype)
        logits = torch.randn(B, Q, K + softmax, generator=g, dtype=dtype)
        sets.append(SupervisedSet(logits, pred, stage, given=given or Given(), softmax=softmax))
    return stack_sets(sets), targets


def pairs(found):
    """{(set, image, query, object)} of pairs."""
    kept = slice(None) if found.valid_P is None else found.valid_P
    return set(zip(*(x[kept].tolist() for x in (found.set_P, found.img_P, found.query_P, found.gt_P)), strict=True))


def optimum(gt_Q, cost_Q, at):
    """{(query, object)} of least total cost among the candidates of one image's objects ``at``."""
    table = np.full((len(at), len(gt_Q)), 1e6)
    for q, g in enumerate(gt_Q):
        if g >= 0:
            table[g - at.start, q] = cost_Q[q]
    rows, columns = linear_sum_assignment(table)
    return {(q, g + at.start) for g, q in zip(rows.tolist(), columns.tolist(), strict=True) if table[g, q] < 1e5}


def test_it_is_the_optimal_assignment_on_the_restricted_graph():
    g, cases, without = torch.Generator().manual_seed(0), 0, 0
    for _ in range(300):
        counts = torch.randint(0, 9, (4,), generator=g).tolist()
        Q, N = int(torch.randint(1, 40, (1,), generator=g)), 2
        stack, targets = scene(counts, Q, N)
        gt_BQ, cost_NBQ = torch.full((4, Q), -1), torch.rand(N, 4, Q, generator=g)
        start, wanted = 0, set()
        for b, n in enumerate(counts):
            if n:
                drawn = torch.randint(start, start + n, (Q,), generator=g)
                gt_BQ[b] = drawn.where(torch.rand(Q, generator=g) < 0.6, -1)
            for s in range(N):
                found = optimum(gt_BQ[b].tolist(), cost_NBQ[s, b].tolist(), range(start, start + n))
                wanted |= {(s, b, q, at) for q, at in found}
                cases, without = cases + 1, without + n - len(found)
            start += n
        assert pairs(Known(gt_BQ, cost_NBQ).match(stack, targets).cls) == wanted
    assert cases >= 2000 and without > 500


def test_of_equal_costs_the_first_query_wins():
    stack, targets = scene((2,), 6)
    gt_BQ = torch.tensor([[-1, 1, 0, 0, 1, 0]])
    assert pairs(Known(gt_BQ, torch.zeros(1, 1, 6)).match(stack, targets).cls) == {(0, 0, 2, 0), (0, 0, 1, 1)}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_costs_that_are_no_numbers_are_never_the_least(bad):
    stack, targets = scene((2,), 4)
    gt_BQ, cost = torch.tensor([[0, 0, 1, 1]]), torch.tensor([[[bad, 3.0, bad, bad]]])
    assert pairs(Known(gt_BQ, cost).match(stack, targets).cls) == {(0, 0, 1, 0)}


def test_the_least_of_each_segment():
    value = torch.tensor([2.0, 1.0, 1.0, -5.0, 0.0])
    assert first_least(torch.tensor([0, 0, 0, 3, 2]), value, 3).tolist() == [1, 5, 4]
    assert first_least(torch.zeros(0, dtype=torch.int64), torch.zeros(0), 2).tolist() == [0, 0]


def test_boxes_and_weights_of_those_that_are_not_matched():
    stack, targets = scene((2, 1), 5)
    gt_BQ, cost = torch.tensor([[0, 0, -1, 1, 1], [-1, 2, 2, -1, 2]]), torch.arange(10.0).view(1, 2, 5)
    matched = {(0, 0, 0, 0), (0, 0, 3, 1), (0, 1, 1, 2)}
    everyone = matched | {(0, 0, 1, 0), (0, 0, 4, 1), (0, 1, 2, 2), (0, 1, 4, 2)}
    found = Known(gt_BQ, cost).match(stack, targets)
    assert pairs(found.cls) == matched and pairs(found.box) == everyone and found.query_weight_NBQ is None
    soft = found.damp
    weights = {(int(b), int(q)): float(w) for b, q, w in zip(soft.img_P, soft.query_P, soft.weight_P, strict=True)}
    assert {at for at, w in weights.items() if w != 1} == {(b, q) for _, b, q, _ in everyone - matched}
    assert sorted(set(weights.values())) == pytest.approx([0.1, 1.0])
    assert pairs(Known(gt_BQ, cost, box_on="matched").match(stack, targets).box) == matched
    whole = Known(gt_BQ, cost, only_reweight_fg=False, eos=0.25).match(stack, targets)
    assert whole.damp is None and torch.equal(whole.query_weight_NBQ, 1 - 0.75 * (gt_BQ >= 0).float()[None])
    plain = Known(gt_BQ, cost, eos=1.0).match(stack, targets)
    assert plain.damp is None and plain.query_weight_NBQ is None
    many = Known(gt_BQ, None, take="all").match(stack, targets)
    assert pairs(many.cls) == pairs(many.box) == everyone and many.damp is None


def test_padding_and_batches_without_objects():
    gt_BQ = torch.tensor([[0, 0, 0, -1]])
    given = Given(valid_BQ=torch.tensor([[False, True, True, True]]))
    stack, targets = scene((1,), 4, given=given)
    found = Known(gt_BQ, torch.zeros(1, 1, 4)).match(stack, targets)
    assert pairs(found.cls) == {(0, 0, 1, 0)} and pairs(found.box) == {(0, 0, 1, 0), (0, 0, 2, 0)}
    named = Given(valid_BQ=given.valid_BQ, prior=Prior(torch.rand(1, 4, 4), candidate_gt_BQ=gt_BQ))
    assert pairs(RoIMatcher().match(*scene((1,), 4, given=named)).box) == {(0, 0, 1, 0), (0, 0, 2, 0)}
    for counts in ((0,), (0, 0), ()):
        found = RoIMatcher().match(*scene(counts, 4))
        assert not len(found.cls) and not len(found.box)
    assert not len(RoIMatcher().match(*scene((2,), 0)).cls)


def of_pyramid(height, width, strides, images, dtype=torch.float64):
    """Prior of the points of a pyramid over images of one size, and the pyramid."""
    grid = pyramid(height, width, strides, dtype)
    points = (grid[0] / torch.tensor([width, height], dtype=dtype)).expand(images, -1, 2)
    return Prior(points_BQ2=points, strides_BQ=grid[1].expand(images, -1)), grid


@pytest.mark.parametrize("radius", [1.5, None])
@pytest.mark.parametrize("strides", [(8, 16, 32, 64), (4, 8, 16, 32, 64)])
def test_points_of_any_source_are_candidates_by_fcos_rule(strides, radius):
    prior, grid = of_pyramid(192, 256, strides, 3)
    g = torch.Generator().manual_seed(3)
    counts = (9, 0, 5)
    boxes = objects(14, 192, 256, g).double()
    stack, targets = scene(counts, len(grid[0]), given=Given(prior=prior), size=(192, 256), dtype=torch.float64)
    cxcywh = torch.cat([boxes[:, :2] + boxes[:, 2:], 2 * (boxes[:, 2:] - boxes[:, :2])], 1) / 2
    targets.boxes = (cxcywh / torch.tensor([256, 192, 256, 192.0])).split(counts)
    found = FCOSMatcher(strides=strides, radius=radius).candidates(stack, targets)
    wanted = fcos_targets(*grid, boxes, targets.image_G, 3, radius or math.inf, level_ranges(strides))
    assert torch.equal(found, wanted) and (found[0] >= 0).any() and not (found[1] >= 0).any()


def test_boxes_of_any_source_are_candidates_by_their_overlap():
    g = torch.Generator().manual_seed(5)
    counts, Q = (6, 0, 4), 30
    _, targets = scene(counts, Q, seed=6)
    first = torch.cat([torch.rand(3, Q, 2, generator=g), 0.1 + 0.3 * torch.rand(3, Q, 2, generator=g)], -1)
    truth = targets.boxes_G4
    first[0, :6], first[2, :4] = truth[:6] + 0.02, truth[6:]
    stack, targets = scene(counts, Q, seed=6, given=Given(prior=Prior(first)))
    found = RoIMatcher(threshold=0.4).candidates(stack, targets)
    for b in range(3):
        for q in range(Q):
            mine = [at for at in range(10) if targets.image_G[at] == b]
            mine = [(iou(first[b, q].tolist(), truth[at].tolist()), -at) for at in mine]
            best, at = max(mine, default=(0, 0))
            assert found[b, q] == (-at if best >= 0.4 else -1)
    assert (found[2, :4] == torch.arange(6, 10)).all()
    xyxy = torch.tensor([[[0.0, 0, 4, 4], [0, 0, 0, 0], [9, 9, 1, 1]]])
    twice = torch.tensor([[0.0, 0, 4, 4]] * 2)
    assert roi_targets(xyxy, twice, torch.zeros(2, dtype=torch.int64)).tolist() == [[0, -1, -1]]
    valid = torch.tensor([[False, True, True]])
    assert roi_targets(xyxy, twice, torch.zeros(2, dtype=torch.int64), valid_BQ=valid).max() == -1


def test_an_object_that_no_box_overlaps_enough_has_its_best():
    boxes = torch.tensor([[[0.0, 0, 4, 4], [0, 0, 9, 9], [20, 20, 24, 24], [20, 20, 30, 30], [50, 50, 51, 51]]])
    truth = torch.tensor([[0.0, 0, 10, 10], [0, 0, 4, 3], [20, 20, 60, 24], [70, 70, 80, 80]])
    image = torch.zeros(4, dtype=torch.int64)
    assert roi_targets(boxes, truth, image).tolist() == [[1, 0, -1, -1, -1]]
    # 16 of 160, and 40 of 220
    assert roi_targets(boxes, truth, image, low_quality=True).tolist() == [[1, 0, -1, 2, -1]]
    valid = torch.tensor([[True, True, True, False, True]])
    assert roi_targets(boxes, truth, image, valid_BQ=valid, low_quality=True).tolist() == [[1, 0, 2, -1, -1]]
    alone = roi_targets(boxes[:, :1], truth[:2], image[:2], 0.9, low_quality=True)
    assert alone.tolist() == [[1]], "of two objects whose best box it is, it has the nearer"
    assert roi_targets(boxes[:, :0], truth, image, low_quality=True).shape == (1, 0)


def test_costs_by_hand():
    for softmax in (False, True):
        prior = Prior(points_BQ2=torch.full((1, 2, 2), 0.5), strides_BQ=torch.full((1, 2), 32.0), boxes_BQ4=None)
        prior.candidate_gt_BQ = torch.zeros(1, 2, dtype=torch.int64)
        stack, targets = scene((1,), 2, softmax=softmax, given=Given(prior=prior))
        targets.boxes = (torch.tensor([[0.55, 0.5, 0.3, 0.4]]),)
        label = int(targets.labels[0])
        logits = stack.logits_NBQK[0, 0]
        prob = (logits.softmax(-1) if softmax else logits.sigmoid())[:, label]
        central = math.sqrt((0.5 - 0.4) / (0.7 - 0.5)) + 1e-6
        for matcher, factor in ((RoIMatcher(w_giou=3.0), 1.0), (FCOSMatcher(w_giou=3.0), central)):
            cost = matcher.cost(stack, targets, prior.candidate_gt_BQ)[0, 0]
            giou = matcher.giou(stack, targets, prior.candidate_gt_BQ)[0, 0]
            torch.testing.assert_close(cost, 3 * (1 - giou) - factor * prob)
            assert giou.unique().numel() == 2


def test_what_cannot_be_is_refused():
    stack, targets = scene((2,), 4)
    with pytest.raises(ValueError, match="group 'main', path 'plain', stage 0 does not say at which points"):
        FCOSMatcher().match(stack, targets)
    with pytest.raises(ValueError, match="does not say which boxes its 4 queries begin with"):
        RoIMatcher().match(stack, targets)
    with pytest.raises(ValueError, match="RepeatedMatcher.*RoIMatcher decides itself"):
        RepeatedMatcher(RoIMatcher())
    for bad in ({"take": "some"}, {"box_on": "all"}, {"eos": 2.0}, {"w_giou": -1.0}, {"threshold": 0.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            RoIMatcher(**bad)
    for bad in ({"radius": 0.0}, {"radius": math.nan}, {"strides": (8, 8)}, {"strides": ()}, {"strides": (0, 8)}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            FCOSMatcher(**bad)


@pytest.mark.parametrize("matcher", [FCOSMatcher(), RoIMatcher(), RoIMatcher(take="all")])
def test_nothing_is_copied_to_the_host(matcher):
    with without_values():
        prior = Prior(*(torch.zeros(2, 5, n, device="cuda") for n in (4, 2)), torch.zeros(2, 5, device="cuda"))
        s = SupervisedSet(*(torch.zeros(2, 5, n, device="cuda") for n in (K, 4)), 0, given=Given(prior=prior))
        labels = tuple(torch.zeros(n, dtype=torch.int64, device="cuda") for n in (3, 0))
        boxes = tuple(torch.zeros(n, 4, device="cuda") for n in (3, 0))
        found = matcher.match(stack_sets([s, s]), Targets(labels, boxes, torch.ones(2, 2, device="cuda")))
        assert found.cls.valid_P.device.type == found.box.query_P.device.type == "cuda"
