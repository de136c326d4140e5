"""A training of so many minutes: the steps and evaluations that fit are planned from what they take on this machine."""

from __future__ import annotations

import datetime
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from statistics import fmean
from typing import Any

from fvcore.common.param_scheduler import ParamScheduler

from detrex_ext.runtime import HookBase, comm

logger = logging.getLogger(__name__)
_AIM = 0.97  # share of the time that a plan fills
_TOLERANCE = 0.03  # a plan stands while its end is no further off than this share of the time
_NO_LONGER = 0.9  # progress from which on a plan is not made longer: the learning rate is low by then
_WARM, _MEASURED, _WINDOW = 3, 10, 20  # steps: not counted, before the first plan, that the speed is the mean of
_SHARE, _MOST = 0.1, 10  # of the time for evaluations, and how many at most
_FORWARD = 0.4  # of a training step's time, a guess until an evaluation was measured
_LAST_PROGRESS = 1 - 2e-6  # step schedules look a little ahead


class TimeBudget(HookBase):
    """Sets the trainer's ``max_iter`` so that a training ends in time, and says when an evaluation is due.

    Registered on every rank before the hooks that look at ``max_iter``; rank 0 measures and decides. Progress goes in
    equal steps from where it is to 1 at the end planned last, so a schedule over it never jumps and ends as it should.

    Args:
        seconds: for everything from ``began`` on, the evaluation at the end included.
        began: time of ``clock`` at the start.
        schedule: makes the schedule of a training of so many steps.
        max_iter: length until the first plan is made.
        eval_batches: training batches that the validation data would fill; 0 = nothing is evaluated.
        clock: seconds that only go on.

    Attributes:
        progress: share of the training that is done, 0 to 1; set back by a first plan longer than the guess.
        max_iter: planned last.
    """

    def __init__(
        self,
        seconds: float,
        began: float,
        schedule: Callable[[int], ParamScheduler],
        max_iter: int,
        eval_batches: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds, self._began, self._clock, self._make = seconds, began, clock, schedule
        self.progress, self.max_iter = 0.0, max(max_iter, 10 * (_WARM + _MEASURED))
        self._guess = _FORWARD * eval_batches
        self._evaluations = 1  # in the whole training, the last included
        self._due_at = 0  # steps done when an evaluation was due last
        self._length = 0  # steps of the plan that the schedule's warm-up is a part of; 0 = none yet
        self._schedule = schedule(self.max_iter)
        self._steps: deque[float] = deque(maxlen=_WINDOW)
        self._measured: deque[float] = deque(maxlen=3)
        self._spent = 0.0  # by earlier runs
        self._first = self._from = self._until = 0.0
        self._evaluated = False

    def schedule(self) -> ParamScheduler:
        """The schedule over progress, for an ``LRScheduler``."""
        return _OverProgress(self)

    def factor(self) -> float:
        """Of the learning rate, now."""
        return self._schedule(min(self.progress, _LAST_PROGRESS))

    def due(self, done: int) -> bool:
        """Whether the state after so many steps is to be evaluated and saved."""
        return 0 < done == self._due_at

    def used(self) -> float:
        """Seconds of the budget that are used up, by earlier runs too."""
        return self._spent + self._clock() - self._began

    def before_train(self) -> None:
        """Start to measure."""
        self._first, self.trainer.anchor = self._clock(), (self.trainer.start_iter, self.progress)

    def before_step(self) -> None:
        """What lies between two steps is the cost of an evaluation where there was one, else of the step."""
        now = self._clock()
        if self.trainer.iter == self.trainer.start_iter:
            self._from = now
        elif self._due_at == self.trainer.iter:
            self._measured.append(now - self._until)
            self._from, self._evaluated = now, True

    def after_step(self) -> None:
        """Move on, and plan anew where it is needed."""
        now, done = self._clock(), self.trainer.iter + 1
        if done - self.trainer.start_iter > _WARM:
            self._steps.append(now - self._from)
        self._from = self._until = now
        before = self.progress
        self.progress += (1 - self.progress) / max(self.max_iter - self.trainer.iter, 1)
        if not self._length or self._evaluated or done % self._interval() == 0:
            self._look(done)
        self._evaluated = False
        self.trainer.max_iter, self.trainer.anchor = self.max_iter, (done, self.progress)
        if self._length and self._rounds(before) < self._rounds(self.progress):
            self._due_at = done

    def _rounds(self, progress: float) -> int:
        """Evaluations that belong to the progress made."""
        return math.floor(progress * self._evaluations + 1e-9)

    def _interval(self) -> int:
        """Steps between two looks at the clock, the same on all ranks."""
        return max(1, min(100, self.max_iter // 50))

    def _look(self, done: int) -> None:
        waiting = len(self._steps) < _MEASURED and self._clock() - self._first < 0.05 * self.seconds
        wanted = comm.is_main_process() and self._steps and not (waiting and not self._length)
        plan = comm.all_gather(self._plan(done, self.used()) if wanted else None)[0]
        if plan is not None:
            self._take(done, *plan)

    def _take(self, done: int, max_iter: int, evaluations: int, text: str) -> None:
        self.max_iter, self._evaluations = max_iter, evaluations
        if not self._length:  # the warm-up is a share of the first plan
            self._length, self._schedule = max_iter, self._make(max_iter)
            self.progress = done / max_iter
        logger.info(text)

    def _plan(self, done: int, used: float) -> tuple[int, int, str] | None:
        """(max_iter, evaluations, a line for the log); None where all stays as it is."""
        first, ordered = not self._length, sorted(self._steps)
        off = math.ceil(len(ordered) / 10) if len(ordered) > 2 else 0  # a step that hung is no speed
        step = fmean(ordered[off : len(ordered) - off])
        evaluation = fmean(self._measured) if self._measured else self._guess * step
        number = max(1, min(_MOST, int(_SHARE * self.seconds / evaluation))) if evaluation else 1
        to_come = max(1, number - math.floor((0 if first else self.progress) * number + 1e-9)) * evaluation
        left = _AIM * self.seconds - used
        spare = left - (self.max_iter - done) * step - to_come
        if not first and (abs(spare) <= _TOLERANCE * self.seconds or (spare > 0 and self.progress > _NO_LONGER)):
            return None
        max_iter = done + max(0, int((left - to_come) / step))
        if not first and (max_iter, number) == (self.max_iter, self._evaluations):
            return None
        instead = "" if first else f" instead of {self.max_iter}"
        cost = f"{'' if self._measured else 'about '}{evaluation:.2g} s"
        end = datetime.timedelta(seconds=round(used + (max_iter - done) * step + to_come))
        head = f"train.minutes={self.seconds / 60:g}: {max_iter}{instead} steps of {step:.2g} s"
        return max_iter, number, f"{head}, {number} evaluations of {cost}: ends after {end}"

    def state_dict(self) -> dict[str, Any]:
        """The plan, the time used so far and what steps and evaluations took."""
        return {
            "seconds": self.seconds,
            "used": self.used(),
            "progress": self.progress,
            "max_iter": self.max_iter,
            "length": self._length,
            "evaluations": self._evaluations,
            "due_at": self._due_at,
            "steps": list(self._steps)[-_MEASURED:],
            "measured": list(self._measured),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what is left of the budget; a budget that was changed is planned anew.

        Raises:
            ValueError: a value that no training leaves.
        """
        numbers = [state[key] for key in ("seconds", "used", "progress")] + [*state["steps"], *state["measured"]]
        counts = [state[key] for key in ("max_iter", "length", "evaluations", "due_at")]
        if not all(math.isfinite(n) and n >= 0 for n in numbers) or not all(type(n) is int and n >= 0 for n in counts):
            raise ValueError("its time budget is none")
        _, self._spent, progress = map(float, numbers[:3])
        self.max_iter, self._length, self._evaluations, self._due_at = counts
        self.progress = min(progress, 1.0)
        self._steps.extend(max(float(n), 1e-9) for n in state["steps"])
        self._measured.extend(map(float, state["measured"]))
        if self._length and state["seconds"] != self.seconds and self._steps:
            self._length = 0
            done = self.trainer.iter + 1
            self._take(done, *self._plan(done, self._spent))  # of what was saved alone: all ranks get the same
        elif self._length:
            self._schedule = self._make(self._length)


class _OverProgress(ParamScheduler):
    """The factor at the progress of a budget, wherever the iteration is."""

    def __init__(self, budget: TimeBudget) -> None:
        self._budget = budget

    def __call__(self, where: float) -> float:
        return self._budget.factor()
