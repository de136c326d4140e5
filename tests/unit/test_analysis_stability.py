"""Matches of checkpoints: by hand-made matches, and by what the rule of a training matches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from contract.hosts import ALL_HOSTS
from data_sets import coco, write
from scipy.optimize import linear_sum_assignment

from detrex_ext.analysis.stability import Matches, MatchEvaluator, changed
from detrex_ext.criterion import detr_rule
from detrex_ext.errors import UserError
from detrex_ext.evaluation import inference_on_dataset
from detrex_ext.matching import FCOSMatcher, GivenMatcher, OneToManyMatcher


def matches(query, place=None, kind="index"):
    query = np.array(query)
    place = np.zeros((*query.shape, 4)) if place is None else np.array(place, float)
    return Matches(kind, query, place, 1)


def test_shares_of_matches_made_by_hand():
    before = matches([[0, 1, 2, -1, -1, 5], [3, 3, 3, 3, 3, 3]])
    after = matches([[0, 2, -1, 4, -1, 5], [3, 3, 3, 3, 3, 3]])
    # kept, another query, lost, found, never matched, kept
    assert changed(before, after).tolist() == [3 / 6, 0.0]
    assert changed(after, before).tolist() == [3 / 6, 0.0]
    assert changed(before, before).tolist() == [0.0, 0.0]


def test_tokens_are_known_by_their_point_whatever_their_rank():
    at = [[[0.25, 0.5, 8, 0], [0.25, 0.5, 8, 0], [0.1, 0.1, 16, 0]]]
    moved = [[[0.25, 0.5, 8, 0], [0.25, 0.5, 16, 0], [0.1, 0.2, 16, 0]]]
    before, after = matches([[7, 7, 1]], at, "point"), matches([[0, 7, 1]], moved, "point")
    assert changed(before, after).tolist() == [2 / 3]


def test_proposals_are_known_by_their_box():
    before = matches([[0, 1]], [[[0, 0, 1, 1], [0, 0, 1, 1]]], "box")
    after = matches([[9, 1]], [[[0, 0.1, 1, 1], [0.5, 0, 1.5, 1]]], "box")
    assert changed(before, after).tolist() == [0.5]


def test_other_objects_are_not_compared(tmp_path):
    with pytest.raises(ValueError, match="the same stages and objects"):
        changed(matches([[0, 1]]), matches([[0]]))
    with pytest.raises(ValueError, match=r"by index and .* by point"):
        changed(matches([[0]]), matches([[0]], kind="point"))
    matches([[0, -1]], kind="box").save(tmp_path / "m.npz")
    again = Matches.load(tmp_path / "m.npz")
    assert (again.kind, again.images, again.query_SG.tolist()) == ("box", 1, [[0, -1]])


@pytest.fixture
def data(tmp_path):
    """Three images; the first has one more object in a crowd region, the second none."""
    found = coco(3, 4, (64, 96))
    del found["annotations"][1]
    found["annotations"].append({**found["annotations"][0], "id": 1, "iscrowd": 1})
    return write(tmp_path, found, images=False)


def batches():
    made = []
    for image in (5, 6, 7):
        g = torch.Generator().manual_seed(image)
        pixels = torch.randint(0, 256, (3, 64, 96), generator=g, dtype=torch.uint8)
        made.append({"image": pixels, "image_id": image, "height": 64, "width": 96})
    return [made[:1], made[1:]]


def found_by(model, data, tmp_path, rule):
    inference_on_dataset(model.eval(), batches(), MatchEvaluator(data, rule, tmp_path / "m.npz"))
    return Matches.load(tmp_path / "m.npz")


@pytest.mark.parametrize("host", ["detr", "deformable, two-stage", "dino", "detr, encoder only"])
def test_the_rule_s_matches_of_an_evaluation(host, data, tmp_path):
    """One object in each of two images: the query of least cost, at every stage."""
    model = ALL_HOSTS[host]()
    rule = detr_rule(softmax=model.decoder.softmax)
    found = found_by(model, data, tmp_path, rule)
    assert found.query_SG.shape == (len(model.decoder.eval_order), 2) and found.images == 3
    assert found.kind == ("point" if "only" in host else "index")
    from detrex_ext.matching import stack_sets
    from detrex_ext.structures import Targets

    box = torch.tensor([[14 / 96, 11 / 64, 20 / 96, 10 / 64]])
    for column, (image, label) in enumerate(((5, 0), (7, 2))):
        batch = [x for b in batches() for x in b if x["image_id"] == image]
        with torch.no_grad():
            sets = [s for s in model.forward_sets(batch) if s.group == "main" and s.stage >= 0]
        for stage, s in enumerate(sets):
            targets = Targets((torch.tensor([label]),), (box,), torch.tensor([[64.0, 96.0]]))
            _, query = linear_sum_assignment(rule.matcher.cost(stack_sets([s]), targets)[0])
            assert found.query_SG[stage, column] == query[0]
            if found.kind == "point":
                point = s.given.prior.points_BQ2[0, query[0]].double().numpy()
                assert np.allclose(found.place_SG4[stage, column, :2], point)


def test_the_restricted_rule_finds_its_candidates_without_a_training(data, tmp_path):
    model = ALL_HOSTS["tsp-fcos, all points"]()
    found = found_by(model, data, tmp_path, detr_rule(matcher=FCOSMatcher()))
    assert found.kind == "point" and found.query_SG.shape == (1, 2)
    assert (found.query_SG >= 0).all() and set(found.place_SG4[..., 2].flatten()) <= {8.0, 16.0, 32.0, 64.0, 128.0}
    assert (abs(found.place_SG4[..., :2] - [14 / 96, 11 / 64]) <= [1.5 * 8 / 96, 1.5 * 8 / 64]).all()


@pytest.mark.parametrize(
    "matcher, message",
    [
        (OneToManyMatcher(k=3, threshold=0.0), "matches an object with several queries"),
        (GivenMatcher(), "no pairs from the set's source"),
        (FCOSMatcher(), "matches of an evaluation: .* point"),
    ],
)
def test_rules_without_one_query_each_are_refused(matcher, message, data, tmp_path):
    with pytest.raises(UserError, match=message):
        found_by(ALL_HOSTS["deformable"](), data, tmp_path, detr_rule(matcher=matcher))
