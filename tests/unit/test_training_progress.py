"""Matchers and losses know how far the training is, by the trainer's own count, over a stop and micro-batches."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from detrex_ext.criterion import Loss, Rule, SetCriterion, Term
from detrex_ext.engine import Trainer
from detrex_ext.matching import HungarianMatcher
from detrex_ext.runtime import HookBase
from detrex_ext.structures import SupervisedSet, Targets

STEPS = 7


class Matcher(HungarianMatcher):
    def __init__(self):
        super().__init__()
        self.seen = []

    def match(self, stack, targets):
        self.seen.append(stack.progress)
        return super().match(stack, targets)


class Told(Loss):
    """The progress itself, for the path from a trainer to a loss."""

    def __call__(self, s):
        return s.stack.logits_NBQK.flatten(1).sum(1) * 0 + s.stack.progress


def a_set(stage=0):
    return SupervisedSet(torch.zeros(1, 4, 3), torch.rand(1, 4, 4), stage)


def test_a_matcher_and_a_loss_know_it_from_the_criterion():
    matcher, targets = Matcher(), Targets((torch.tensor([1]),), (torch.rand(1, 4),), torch.ones(1, 2))
    criterion = SetCriterion([Rule(matcher, {"told": Term(Told(), 2.0, "mean")})])
    assert criterion([a_set(0), a_set(1)], targets, progress=0.25)["loss_told"] == 2 * 2 * 0.25
    assert criterion([a_set()], targets)["loss_told"] == 0, "no training, no progress"
    assert matcher.seen == [0.25, 0.0]


class Model(nn.Module):
    """Keeps what it is told; the criterion and its call are the detector's."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(1, 4, 3))
        self.matcher = Matcher()
        self.criterion = SetCriterion([Rule(self.matcher, {"told": Term(Told(), 1.0, "mean")})])

    def forward(self, batch, effective=None, progress=0.0):
        targets = Targets((torch.tensor([1]),), (torch.full((1, 4), 0.5),), torch.ones(1, 2))
        s = SupervisedSet(self.logits, torch.full((1, 4, 4), 0.5), 0)
        return self.criterion([s], targets, effective, progress)


class Batches:
    def __iter__(self):
        while True:
            yield [{"instances": [0]}, {"instances": [0]}]


def trainer(model, **options):
    return Trainer(model, Batches(), torch.optim.SGD(model.parameters(), lr=0.0), **options)


def test_it_is_the_trainers_and_the_same_after_a_stop():
    whole = Model()
    trainer(whole).train(0, STEPS)
    assert whole.matcher.seen == [i / STEPS for i in range(STEPS)]

    class Stops(HookBase):
        def after_step(self):
            if self.trainer.iter == 3:
                kept.update(self.trainer.state_dict())
                raise KeyboardInterrupt

    kept, before, after = {}, Model(), Model()
    first = trainer(before)
    first.register_hooks([Stops()])
    with pytest.raises(KeyboardInterrupt):
        first.train(0, STEPS)
    second = trainer(after)
    second.load_state_dict(kept)
    second.train(second.iter + 1, STEPS)
    assert before.matcher.seen + after.matcher.seen == whole.matcher.seen


def test_all_micro_batches_of_a_step_have_one():
    model = Model()
    trainer(model, accumulate_steps=2).train(0, 3)
    assert model.matcher.seen == [0, 0, 1 / 3, 1 / 3, 2 / 3, 2 / 3]


def test_a_plan_that_changes_is_followed():
    """As under ``train.minutes``: from step 2 on the training is twice as long."""

    class Longer(HookBase):
        def after_step(self):
            if self.trainer.iter == 1:
                self.trainer.anchor, self.trainer.max_iter = (2, 0.5), 6

    model = Model()
    planned = trainer(model)
    planned.register_hooks([Longer()])
    planned.train(0, 4)
    assert model.matcher.seen == [0, 0.25, 0.5, 0.625, 0.75, 0.875]


@pytest.mark.parametrize("takes", ["batch", "batch, effective=None"])
def test_a_model_that_asks_for_nothing_is_told_nothing(takes):
    names: dict = {}
    exec(f"def forward(self, {takes}):\n    return {{'loss': self.logits.sum()}}", names)
    model = type("Other", (Model,), {"forward": names["forward"]})()
    trainer(model).train(0, 2)
    assert model.matcher.seen == []
