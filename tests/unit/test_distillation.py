"""Matching distillation: a student's pairs are exactly its teacher's, and what makes no sense is refused."""

from __future__ import annotations

import narrow_run
import pytest
import torch
from omegaconf import OmegaConf

from detrex_ext import engine
from detrex_ext.api import load
from detrex_ext.config import load_config
from detrex_ext.data import shapes
from detrex_ext.engine import distillation
from detrex_ext.errors import UserError
from detrex_ext.matching import GivenMatcher, HungarianMatcher, SoftmaxClassCost, stack_sets
from detrex_ext.matching.costs import GIoUCost, L1Cost
from detrex_ext.structures import Pairs, Targets


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    run = narrow_run.write(tmp_path_factory.mktemp("teacher"), (), ("model_final",), "detr_r50_300ep")
    shapes.write(run.parent / "more", 6, 3, 48, 0)
    return run


def student(teacher, out, *more, host="detr_r50_300ep", overlays=("tiny", "distill")):
    data = teacher.parent / "more"
    places = [f"dataset.{part}_json={data}/{part}.json" for part in ("train", "val")]
    places += [f"dataset.{part}_images={data}/images" for part in ("train", "val")]
    short = ["dataloader.train.total_batch_size=4", "dataloader.train.num_workers=0", "train.max_iter=3"]
    given = [*places, *narrow_run.TINY, *short, "train.seed=1", "train.device=cpu", f"train.output_dir={out}", *more]
    return load_config(host, overlays, given)


def pairs_of(answer, stage):
    """(image, query, flat object) of one set of a stack."""
    mine = answer.cls.set_P == stage
    index = (x[mine].tolist() for x in (answer.cls.img_P, answer.cls.query_P, answer.cls.gt_P))
    return set(zip(*index, strict=True))


@pytest.mark.parametrize("parts", [1, 2])
def test_the_pairs_of_every_step_are_the_teacher_s(parts, teacher, tmp_path, monkeypatch):
    asked, taken = [], []
    ask, match = distillation.Teacher.__call__, GivenMatcher.match

    def asking(self, batch, targets):
        asked.append((batch, targets))
        return ask(self, batch, targets)

    def matching(self, stack, targets):
        taken.append((stack, match(self, stack, targets)))
        return taken[-1][1]

    monkeypatch.setattr(distillation.Teacher, "__call__", asking)
    monkeypatch.setattr(GivenMatcher, "match", matching)
    engine.train(student(teacher, tmp_path, f"train.teacher={teacher}", f"train.accumulate_steps={parts}"))
    assert len(asked) == len(taken) == 3 * parts
    # another model of the same file, the costs of the paper, the batch as it was augmented
    model = load(teacher, device="cpu").model
    matcher = HungarianMatcher([SoftmaxClassCost(1.0), L1Cost(5.0), GIoUCost(2.0)])
    for (batch, targets), (stack, answer) in zip(asked, taken, strict=True):
        with torch.no_grad():
            last = model.forward_sets(batch)[-1]
        objects = [{"labels": a, "boxes": b} for a, b in zip(targets.labels, targets.boxes, strict=True)]
        matched = matcher({"pred_logits": last.logits_BQK, "pred_boxes": last.boxes_BQ4}, objects)
        offsets, wanted = targets.offsets_B.tolist(), set()
        for b, (query, gt) in enumerate(matched):
            wanted |= {(b, q, g + offsets[b]) for q, g in zip(query.tolist(), gt.tolist(), strict=True)}
        assert stack.shape[0] == 3 and len(wanted) == targets.num > 0
        assert all(pairs_of(answer, stage) == wanted for stage in range(3))
    state = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert not [key for key in state["model"] if "teacher" in key]


def test_the_teacher_only_predicts(teacher):
    before = torch.load(teacher / "model_final.pth", weights_only=True)["model"]
    found = distillation.load_teacher(str(teacher), names(teacher), torch.device("cpu"))
    assert not found.model.training and not any(p.requires_grad for p in found.model.parameters())
    assert all(torch.equal(before[key], value) for key, value in found.model.state_dict().items())


def names(run):
    return torch.load(run / "model_final.pth", weights_only=True)["class_names"]


def test_a_distilled_run_is_read_and_evaluated_like_any_other(teacher, tmp_path):
    engine.train(student(teacher, tmp_path, f"train.teacher={teacher}", "train.max_iter=1"))
    assert load(tmp_path, device="cpu").class_names == names(teacher)
    # a student that teaches: its own pairs are those of DETR's rule
    cfg = OmegaConf.load(tmp_path / "config.yaml")
    assert cfg.train.teacher == str(teacher)
    found = distillation.load_teacher(str(tmp_path), names(teacher), torch.device("cpu"))
    assert isinstance(found.matcher, HungarianMatcher)


@pytest.mark.parametrize(
    "more, options, message",
    [
        ((), {}, "a rule takes its pairs from a teacher, but train.teacher names none"),
        (("train.teacher=RUN",), {"overlays": ("tiny",)}, "no rule takes its pairs\n  --overlay distill"),
        (("train.teacher=RUN/none",), {}, "none"),
        (("train.teacher=RUN/config.yaml",), {}, "config.yaml"),
        (("train.teacher=RUN", "model.queries.num_queries=39"), {}, "it has 40 queries, the student 39"),
        (("train.teacher=OTHER",), {}, "knows a, b, c, d; the student"),
        (("train.teacher=STRANGER",), {}, "would call 'foreign.Part'"),
    ],
)
def test_what_makes_no_sense_is_refused(more, options, message, teacher, tmp_path):
    content = torch.load(teacher / "model_final.pth", weights_only=True)
    for name in ("other", "stranger"):
        (tmp_path / name).mkdir()
        text = (teacher / "config.yaml").read_text()
        known = {**content, "class_names": list("abcd")} if name == "other" else content
        text = text if name == "other" else "model: {_target_: foreign.Part}\n"
        (tmp_path / name / "config.yaml").write_text(text)
        torch.save(known, tmp_path / name / "model_final.pth")
    places = {"RUN": teacher, "OTHER": tmp_path / "other", "STRANGER": tmp_path / "stranger"}
    for word, place in places.items():
        more = [text.replace(f"={word}", f"={place}") for text in more]
    with pytest.raises(UserError) as error:
        engine.train(student(teacher, tmp_path / "out", *more, **options))
    assert message in str(error.value)


def test_the_overlay_leaves_other_groups_their_own_matching():
    cfg = load_config("small", ["distill"], ["train.teacher=somewhere"])
    assert cfg.model.rules.main.matcher._target_ is GivenMatcher and cfg.model.rules.main.matcher.source == "targets"
    assert cfg.model.rules.enc.matcher._target_ is HungarianMatcher and "source" not in cfg.model.rules.dn.matcher
    assert cfg.train.teacher == "somewhere"
    with pytest.raises(UserError, match="the overlay distill needs a rule with a matcher of its own"):
        load_config("tsp_fcos_r50_3x", ["distill"])


def test_pairs_of_queries_that_are_not_there_are_refused(monkeypatch):
    from detrex_ext.structures import SupervisedSet

    stack = stack_sets([SupervisedSet(torch.zeros(1, 3, 2), torch.zeros(1, 3, 4), 0)])
    index = torch.zeros(1, dtype=torch.int64)
    pairs = Pairs(index, index, index + 3, index)
    targets = Targets((index,), (torch.ones(1, 4),), torch.ones(1, 2), pairs)
    with pytest.raises(ValueError, match="Targets.pairs name query 3, but .* has 3 queries"):
        GivenMatcher("targets").match(stack, targets)
