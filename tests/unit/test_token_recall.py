"""The share of objects that chosen tokens can answer for, against counting, and in a training of TSP-FCOS."""

from __future__ import annotations

import json

import narrow_run
import pytest
import torch
from contract.hosts import ALL_HOSTS, CLASSES

from detrex_ext import engine
from detrex_ext.config import load_config
from detrex_ext.criterion.recall import token_recall
from detrex_ext.data import shapes
from detrex_ext.structures import Given, Prior, SupervisedSet, Targets
from detrex_ext.testing import example_batch


def a_set(gt, scores, valid=None, group="main", stage=0):
    gt, scores = torch.tensor(gt), torch.tensor(scores, dtype=torch.float32)[..., None]
    prior = Prior(points_BQ2=torch.zeros(*gt.shape, 2), candidate_gt_BQ=gt)
    given = Given(prior=prior, valid_BQ=None if valid is None else torch.tensor(valid))
    return SupervisedSet(scores, torch.zeros(*gt.shape, 4), stage, group, given=given)


def objects(*counts):
    labels = tuple(torch.zeros(n, dtype=torch.int64) for n in counts)
    return Targets(labels, tuple(torch.ones(n, 4) for n in counts), torch.ones(len(counts), 2))


def test_shares_counted_by_hand():
    main = a_set([[0, 0, -1], [3, -1, 2]], [[0, 0, 0], [0, 0, 0]])
    points = a_set([[0, 0, -1, 1, -1], [2, 3, -1, -1, -1]], [[5, 1, 4, 3, 0], [0, 1, 4, 3, 2]], group="token", stage=-1)
    found = token_recall([points, main], objects(2, 2))
    # object 1 has no candidate among the chosen; by score alone image 0 has points 0, 2, 3, image 1 has 2, 3, 4
    assert {name: float(v) for name, v in found.items()} == {"recall/tokens": 0.75, "recall/by_score": 0.5}
    padded = a_set([[0, 0, -1], [3, -1, 2]], [[0] * 3] * 2, valid=[[True] * 3, [False, True, True]])
    assert float(token_recall([padded], objects(2, 2))["recall/tokens"]) == 0.5
    hidden = a_set([[0, 0, -1, 1, -1], [2, 3, -1, -1, -1]], [[5, 1, 4, 3, 0], [0, 1, 4, 3, 2]],
                   [[True] * 5, [True, True, False, False, True]], "token", -1)  # fmt: skip
    assert float(token_recall([hidden, main], objects(2, 2))["recall/by_score"]) == 1.0
    halves = token_recall([main], objects(2, 2), effective=(8.0, 4.0))  # one of two micro-batches of 8 objects
    assert float(halves["recall/tokens"]) == 3 / 8


def test_nothing_where_there_are_no_objects_or_no_candidates():
    main = a_set([[-1, -1]], [[0, 0]])
    assert token_recall([main], objects(0)) == {}
    assert float(token_recall([main], objects(3))["recall/tokens"]) == 0.0
    assert token_recall([SupervisedSet(torch.zeros(1, 2, 1), torch.zeros(1, 2, 4), 0)], objects(1)) == {}
    assert token_recall([], objects(1)) == {}


@pytest.mark.parametrize("host", ["tsp-fcos", "tsp-fcos, all points", "tsp-rcnn", "detr", "dino"])
def test_of_hosts(host):
    torch.manual_seed(0)
    model = ALL_HOSTS[host]().train()
    if host == "tsp-rcnn":  # fewer regions than anchors that are supervised
        model.encoder.sampler.num_samples = 8
    losses = model(example_batch(CLASSES, (3, 2)))
    names = {name for name in losses.stats if name.startswith("recall")}
    wanted = {"recall/tokens"} if host.startswith("tsp") else set()
    assert names == wanted | ({"recall/by_score"} if host == "tsp-fcos" else set())
    assert not [name for name in losses if "recall" in name]
    if host == "tsp-fcos":
        assert 0 <= losses.stats["recall/by_score"] <= losses.stats["recall/tokens"] <= 1


def test_a_training_logs_it(tmp_path):
    shapes.write(tmp_path / "data", 4, 2, 48, 0)
    places = [f"dataset.{p}_json={tmp_path}/data/{p}.json" for p in ("train", "val")]
    places += [f"dataset.{p}_images={tmp_path}/data/images" for p in ("train", "val")]
    short = ["dataloader.train.total_batch_size=2", "dataloader.train.num_workers=0", "train.max_iter=2"]
    more = ["train.log_period=1", "train.device=cpu", "train.seed=1", f"train.output_dir={tmp_path / 'out'}"]
    engine.train(load_config("tsp_fcos_r50_3x", ["tiny"], [*places, *narrow_run.TINY, *short, *more]))
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.json").read_text().splitlines()]
    found = [row["recall/tokens"] for row in rows if "recall/tokens" in row]
    assert found and all(0 < value <= 1 for value in found)
