"""docs/extending/*.md, followed literally; what they add does what it says, and wrong parts are named by the checks."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from math import log
from pathlib import Path

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.nn.functional import one_hot
from torchvision.ops import box_convert, box_iou

from detrex_ext.checkpoint.layouts import LAYOUTS
from detrex_ext.criterion import Supervision
from detrex_ext.matching import stack_sets
from detrex_ext.structures import Assignment, Given, Pairs, SupervisedSet, Targets
from detrex_ext.testing import BrokenInvariant, check_host, check_strategy, example_batch

PAGES = Path(__file__).resolve().parents[2] / "docs" / "extending"
NAMES = sorted(path.stem for path in PAGES.glob("*.md"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict]:
    """The names that a page's blocks define, one after the other in an empty folder."""
    known = list(LAYOUTS)

    @cache
    def run(name: str) -> dict:
        path = PAGES / f"{name}.md"
        names: dict = {}
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path_factory.mktemp(name))
            for block in re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
                exec(compile(block, str(path), "exec"), names)
        return names

    yield run
    LAYOUTS[:] = known


@pytest.mark.parametrize("name", NAMES)
def test_a_page_runs(page, name):
    assert page(name)


def test_the_index_leads_to_all_pages():
    text = (PAGES.parent / "extending.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\(extending/(\w+)\.md\)", text)) == set(NAMES)


def test_the_strategy_adds_what_it_says(page):
    names = page("strategy")
    model = names["instantiate"](names["cfg"].model)
    sets = model.train().forward_sets(example_batch(4))
    paths = [s.path for s in sets if s.group == "main"]
    assert paths.count("plain") == 3 and paths.count("many") == 3
    losses = names["losses"]
    assert {"loss_bbox_many", "loss_giou_many"} <= set(losses) and "loss_class_many" not in losses
    assert [k for k in losses.stats if k.endswith("loss_bbox_many")] == [f"stage{i}/loss_bbox_many" for i in range(3)]
    assert model.criterion.rules[0].terms["bbox"].weight == 0.5 * model.rules["main"].terms["bbox"].weight


def test_the_head_of_a_strategy_learns_and_is_no_part_of_the_plain_path(page):
    names = page("strategy")
    model = names["instantiate"](names["cfg"].model)
    head = names["MixedSupervisionWithHead"](4, 128)
    model.use({"mixed": head})
    losses = model.train()(example_batch(4))
    losses["loss_class_many"].backward()
    assert head.classes.weight.grad.abs().sum() > 0
    assert all(p.grad is None or not p.grad.any() for p in model.decoder.class_embed.parameters())


def _set(logits, boxes) -> SupervisedSet:
    return SupervisedSet(logits, boxes, stage=0)


def _simota(logits_QK, boxes_Q4, labels_G, true_G4) -> dict[int, int]:
    """The object of each query of one image that has one, by loops."""
    iou_GQ = box_iou(box_convert(true_G4, "cxcywh", "xyxy"), box_convert(boxes_Q4, "cxcywh", "xyxy")).tolist()
    costs = [
        [float(bce(logit, one_hot(label, 3).float(), reduction="sum")) - 3.0 * log(max(iou, 1e-8))
         for logit, iou in zip(logits_QK, row, strict=True)]
        for label, row in zip(labels_G, iou_GQ, strict=True)
    ]  # fmt: skip
    owner: dict[int, int] = {}
    for g, (cost, row) in enumerate(zip(costs, iou_GQ, strict=True)):
        k = max(1, int(sum(sorted(row)[-10:])))
        for _, q in sorted(zip(cost, range(len(cost)), strict=True))[:k]:
            if q not in owner or cost[q] < costs[owner[q]][q]:
                owner[q] = g
    return owner


def test_simota_is_the_published_rule(page):
    torch.manual_seed(0)
    counts = [4, 0, 7]
    labels = tuple(torch.randint(0, 3, (n,)) for n in counts)
    # crowded, so that objects quarrel about queries
    boxes = tuple(torch.cat([torch.rand(n, 2) * 0.3 + 0.3, torch.full((n, 2), 0.3)], -1) for n in counts)
    pred = torch.cat([torch.rand(3, 25, 2) * 0.4 + 0.3, torch.rand(3, 25, 2) * 0.3 + 0.2], -1)
    logits = torch.randn(3, 25, 3)
    pairs = page("matcher")["SimOTA"](k=10).match(stack_sets([_set(logits, pred)]), Targets(labels, boxes, pred[0])).cls
    found = torch.stack([pairs.img_P, pairs.query_P, pairs.gt_P])[:, pairs.valid_P].T.tolist()
    wanted = []
    for image, first in enumerate([0, 4, 4]):
        owner = _simota(logits[image], pred[image], labels[image], boxes[image])
        wanted += [[image, q, first + g] for q, g in owner.items()]
    assert len(wanted) > 2 * sum(counts)  # several queries for an object
    assert sorted(found) == sorted(wanted)


def _supervision(valid: list[bool]) -> Supervision:
    torch.manual_seed(0)
    logits, boxes = torch.randn(1, 5, 4), torch.rand(1, 5, 4) * 0.4 + 0.2
    targets = Targets((torch.tensor([1, 3]),), (torch.rand(2, 4) * 0.4 + 0.2,), torch.ones(1, 2))
    zeros = torch.zeros(3, dtype=torch.int64)
    pairs = Pairs(zeros, zeros, torch.tensor([4, 0, 0]), torch.tensor([0, 0, 1]), None, torch.tensor(valid))
    return Supervision(stack_sets([_set(logits.requires_grad_(), boxes)]), Assignment(pairs, pairs), targets)


def test_the_loss_page_computes_what_it_says(page):
    names = page("loss")
    s = _supervision([True, True, True])
    assert names["NumMatchedQueries"]().count(s).tolist() == [2.0]
    assert names["NumMatchedQueries"]().count(_supervision([True, False, False])).tolist() == [1.0]
    near, far = (s.box_pred_P4 - s.box_true_P4).abs(), 0.05
    expected = torch.where(near < far, near**2 / (2 * far), near - far / 2).sum()
    assert torch.allclose(names["SmoothL1Loss"](far)(s).sum(), expected)
    p, target = s.stack.logits_NBQK.sigmoid(), torch.zeros(1, 1, 5, 4)
    for query, label, iou in zip([4, 0, 0], [1, 1, 3], s.cls_iou_P, strict=True):
        target[0, 0, query, label] = iou**2
    value = (target - p).abs() ** 2 * -(target * p.log() + (1 - target) * (1 - p).log())
    assert torch.allclose(names["PositionLoss"]()(s), value.sum()[None])


def test_the_grid_covers_the_image_and_takes_denoising(page):
    names = page("query_source")
    points = names["model"].queries.points
    assert points.shape == (36, 2) and torch.allclose(points.mean(0), torch.tensor([0.5, 0.5]))
    sets = names["denoising"].train().forward_sets(example_batch(4))
    assert {s.group for s in sets} == {"main", "dn"}
    assert isinstance(sets[0].given, Given)


def test_the_backbone_has_the_shapes_and_the_weights_it_says(page):
    names = page("backbone")
    backbone = names["model"].backbone
    image = torch.rand(1, 3, 70, 99)
    maps = backbone.eval()(image)
    for name, shape in backbone.output_shape().items():
        expected = (1, shape.channels, -(-70 // shape.stride), -(-99 // shape.stride))
        assert maps[name].shape == expected
    reference = names["pretrained"].eval().features[:16]
    assert torch.allclose(maps["res5"], reference(image), atol=1e-5)


def test_a_strategy_that_changes_the_plain_path_is_named(page):
    names = page("strategy")

    class Louder(names["MixedSupervision"]):
        def after_stage(self, step, history, sets, q):
            return sets, q.replace(content_BTC=q.content_BTC * 1.01)

    with pytest.raises(BrokenInvariant) as e:
        check_strategy(Louder(), names["model"])
    assert e.value.names == ("plain path",)


def test_a_strategy_without_a_rule_for_its_sets_is_named(page):
    names = page("strategy")

    class Other(names["MixedSupervision"]):
        def after_stage(self, step, history, sets, q):
            return sets + [names["replace"](s, group="other") for s in sets], q

    with pytest.raises(BrokenInvariant, match="no rule fits") as e:
        check_strategy(Other(), names["model"])
    assert "every set has a rule" in e.value.names


def test_a_strategy_that_remembers_is_named(page):
    names = page("strategy")

    class Remembers(names["MixedSupervision"]):
        passes = 0

        def after_stage(self, step, history, sets, q):
            self.passes += step < 0
            return super().after_stage(step, history, sets, q) if self.passes % 2 else (sets, q)

    with pytest.raises(BrokenInvariant) as e:
        check_strategy(Remembers(), names["model"])
    assert "no state" in e.value.names


def _with_decoder(names: dict, decoder) -> object:
    names["cfg"].model.decoder._target_ = decoder
    return names["instantiate"](names["cfg"].model)


def test_a_host_that_returns_corners_as_boxes_is_named(page):
    names = page("host")

    class Corners(names["CornerDecoder"]):
        def predict(self, layer, x, mem):
            logits, boxes, q = super().predict(layer, x, mem)
            return logits, boxes * 2 - 0.5, q

    with pytest.raises(BrokenInvariant) as e:
        check_host(_with_decoder(names, Corners))
    assert "normalized boxes" in e.value.names


def test_a_host_that_keeps_scratch_is_named(page):
    names = page("host")

    class Keeps(names["CornerDecoder"]):
        def predict(self, layer, x, mem):
            logits, boxes, q = super().predict(layer, x, mem)
            return logits, boxes, q.replace(extra=x.extra)

    with pytest.raises(BrokenInvariant) as e:
        check_host(_with_decoder(names, Keeps))
    assert "scratch dropped" in e.value.names
