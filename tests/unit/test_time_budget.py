"""A training of so many minutes, by a clock that only steps and evaluations move."""

from __future__ import annotations

import pytest
import torch
from fvcore.common.param_scheduler import CosineParamScheduler

from detrex_ext.engine import EvalHook, LRScheduler, TrainerBase
from detrex_ext.engine.schedule import warmed_up
from detrex_ext.engine.time_budget import TimeBudget
from detrex_ext.runtime import HookBase


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


class Trainer(TrainerBase):
    """A step takes ``seconds(iteration)`` of the clock."""

    def __init__(self, clock, seconds):
        super().__init__()
        self.clock, self.seconds = clock, seconds
        self.optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        self.rates = []

    def run_step(self):
        self.rates.append(self.optimizer.param_groups[0]["lr"])
        self.optimizer.step()
        self.clock.now += self.seconds(self.iter)


class Stop(HookBase):
    """Ends a run after an iteration, with the state that its checkpoint would have."""

    def __init__(self, at=-1):
        self.at, self.state = at, None

    def after_step(self):
        if self.trainer.iter == self.at:
            self.state = self.trainer.state_dict()
            raise KeyboardInterrupt


def schedule(max_iter):
    return warmed_up(CosineParamScheduler(1.0, 0.01), 20, 0.001, max_iter)


def parts(minutes, step, evaluation=0.0, stop=-1, eval_batches=1.0, began=0.0):
    """(trainer, budget, iterations done when it was evaluated, the hook that stops); began: seconds ago."""
    clock, evaluated = Clock(), []
    trainer = Trainer(clock, step)
    budget = TimeBudget(60 * minutes, clock.now - began, schedule, 2000, eval_batches, clock)

    def evaluate():
        evaluated.append(trainer.iter + 1)
        clock.now += evaluation

    stopping = Stop(stop)
    hooks = [budget, LRScheduler(scheduler=budget.schedule()), stopping, EvalHook(budget.due, evaluate)]
    trainer.register_hooks(hooks)
    return trainer, budget, evaluated, stopping


def took(trainer):
    return trainer.clock.now - 1000.0


@pytest.mark.parametrize("minutes, step, evaluation", [(3, 0.5, 2.0), (3, 0.02, 0.5), (15, 1.3, 30.0), (1, 4.0, 3.0)])
def test_a_steady_machine_is_done_in_time(minutes, step, evaluation):
    trainer, budget, evaluated, _ = parts(minutes, lambda i: step, evaluation)
    trainer.train(0, budget.max_iter)
    assert 0.9 * 60 * minutes <= took(trainer) <= 60 * minutes
    assert trainer.iter == trainer.max_iter and evaluated[-1] == trainer.max_iter + 1
    assert len(evaluated) <= 10 and len(evaluated) * evaluation <= 0.15 * 60 * minutes


def test_time_before_the_first_step_counts():
    trainer, budget, _, _ = parts(2, lambda i: 0.5, began=60.0)
    trainer.train(0, budget.max_iter)
    assert 108 - 60 <= took(trainer) <= 60


@pytest.mark.parametrize("slower, since", [(2.0, 100), (3.0, 200), (0.5, 50)])
def test_a_machine_that_becomes_busy_or_idle_ends_in_time_all_the_same(slower, since):
    trainer, budget, evaluated, _ = parts(3, lambda i: 0.5 * (slower if i >= since else 1), 2.0)
    trainer.train(0, budget.max_iter)
    assert 162 <= took(trainer) <= 198
    assert budget.progress == pytest.approx(1.0)
    falling = trainer.rates[20:]
    assert all(a >= b for a, b in zip(falling, falling[1:], strict=False))  # never jumps up
    assert falling[-1] < 0.05  # ends as the schedule does


def test_an_evaluation_much_dearer_than_guessed_makes_the_rest_shorter():
    trainer, budget, evaluated, _ = parts(3, lambda i: 0.25, 25.0, eval_batches=1.0)
    trainer.train(0, budget.max_iter)
    assert 162 <= took(trainer) <= 198 and len(evaluated) <= 3


def test_one_iteration_of_a_plan_equals_the_schedule_of_that_length():
    trainer, budget, _, _ = parts(3, lambda i: 0.5)
    trainer.train(0, budget.max_iter)
    expected = schedule(trainer.max_iter)
    wanted = [expected(min(i / trainer.max_iter, 1 - 2e-6)) for i in range(trainer.max_iter)]
    assert trainer.rates[20:] == pytest.approx(wanted[20:], rel=1e-6)
    # before the first plan the end of the warm-up is that of another length
    assert trainer.rates[:20] == pytest.approx(wanted[:20], rel=0.01)


def test_a_step_slower_than_the_whole_budget_is_the_last_but_for_those_that_are_measured():
    trainer, budget, evaluated, _ = parts(0.5, lambda i: 60.0)
    trainer.train(0, budget.max_iter)
    assert trainer.max_iter == 4 and evaluated == [5]


@pytest.mark.parametrize("stop", [5, 49, 133])
def test_a_resumed_run_goes_on_with_what_is_left_and_as_the_other_would_have(stop):
    whole, budget, evaluated, _ = parts(3, lambda i: 0.5, 2.0)
    whole.train(0, budget.max_iter)
    first, budget_1, seen_1, stopping = parts(3, lambda i: 0.5, 2.0, stop=stop)
    with pytest.raises(KeyboardInterrupt):
        first.train(0, budget_1.max_iter)
    second, budget_2, seen_2, _ = parts(3, lambda i: 0.5, 2.0)
    second.load_state_dict(stopping.state)
    second.train(stop + 1, budget_2.max_iter)
    assert abs(second.max_iter - whole.max_iter) <= 2  # the evaluation of a step that was resumed at is not measured
    assert took(first) + took(second) == pytest.approx(took(whole), abs=3)
    assert sorted({*seen_1, *seen_2}) == pytest.approx(evaluated, abs=2)
    assert first.rates + second.rates == pytest.approx(whole.rates[: len(first.rates) + len(second.rates)], abs=0.02)


def test_a_finished_run_goes_on_when_it_is_given_more_time():
    first, budget, _, _ = parts(1, lambda i: 0.5)
    first.train(0, budget.max_iter)
    first.iter = first.max_iter - 1
    state = first.state_dict()
    second, same, _, _ = parts(1, lambda i: 0.5)
    second.load_state_dict(state)
    assert same.max_iter == first.max_iter
    third, more, _, _ = parts(2, lambda i: 0.5)
    third.load_state_dict(state)
    assert more.max_iter == pytest.approx(2 * first.max_iter, rel=0.1)
    assert more.progress == pytest.approx(0.5, abs=0.05)
    third.train(first.max_iter, more.max_iter)
    assert 54 <= took(third) <= 66


@pytest.mark.parametrize(
    "key, value",
    [("used", float("nan")), ("used", -1.0), ("progress", float("inf")), ("max_iter", 2.5), ("steps", [float("nan")]),
     ("steps", None), ("evaluations", "10"), ("seconds", None)],
)  # fmt: skip
def test_a_state_that_no_training_leaves_is_refused(key, value):
    first, budget, _, _ = parts(1, lambda i: 0.5)
    first.train(0, budget.max_iter)
    state = budget.state_dict()
    other = parts(1, lambda i: 0.5)[1]
    with pytest.raises((ValueError, TypeError)):
        other.load_state_dict({**state, key: value})


def test_a_step_that_hangs_costs_its_time_and_no_more():
    trainer, budget, _, _ = parts(3, lambda i: 30.0 if i == 60 else 0.5, 2.0)
    trainer.train(0, budget.max_iter)
    assert 162 <= took(trainer) <= 182
    assert trainer.max_iter > 220  # of 330 without it; 60 are 30 seconds


def test_ranks_follow_rank_0(monkeypatch):
    """A rank whose own clock runs twice as fast does what it is told."""
    leader, lead, seen, _ = parts(3, lambda i: 0.5, 2.0)
    plans = []
    gather = "detrex_ext.engine.time_budget.comm.all_gather"
    monkeypatch.setattr(gather, lambda value: plans.append(value) or [value])
    leader.train(0, lead.max_iter)
    told = iter(plans)
    monkeypatch.setattr(gather, lambda value: [next(told), value])
    monkeypatch.setattr("detrex_ext.engine.time_budget.comm.is_main_process", lambda: False)
    follower, follow, also, _ = parts(3, lambda i: 1.0, 2.0)
    follower.train(0, follow.max_iter)
    assert (follower.max_iter, also, follower.rates) == (leader.max_iter, seen, leader.rates)
    assert next(told, "none left") == "none left"
