"""Running a model over a loader, and printing results the way scripts read them."""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from ..errors import UserError
from ..runtime import comm

logger = logging.getLogger(__name__)

_WARMUP = 5
_LOG_EVERY_S = 5.0


class Evaluator(Protocol):
    """What ``inference_on_dataset`` asks of an evaluator; detectron2's fit.

    One that looks at more than predictions says ``needs_sets = True``: its ``process`` then takes as a third argument
    what the decoder emitted for the batch. Its ``prepare(model)``, if it has one, is called before the first batch and
    may refuse the model; its ``strategies``, if it has any, act while the model runs.
    """

    def reset(self) -> None:
        """Forget what was taken so far."""

    def process(self, inputs: Any, outputs: Any) -> None:
        """Take the predictions of a batch."""

    def evaluate(self) -> dict | None:
        """Results by task, on rank 0; None or {} elsewhere."""


def inference_on_dataset(
    model: nn.Module, data_loader: Any, evaluator: Evaluator | Sequence[Evaluator] | None
) -> dict[str, Any]:
    """Run ``model`` over ``data_loader`` in evaluation mode and evaluate.

    Modes of the model's modules are what they were afterwards, also after an error.

    Args:
        model: batch -> outputs.
        data_loader: with a length; gives batches.
        evaluator: one, several (their results are merged), or None to measure time only. However many need sets, the
            model runs once for each batch.

    Returns:
        What the evaluators returned; empty where that is nothing.

    Raises:
        UserError: an evaluator needs sets, and the model does not give them.
        ValueError: two evaluators return the same task.
    """
    evaluators = [] if evaluator is None else list(evaluator) if isinstance(evaluator, Sequence) else [evaluator]
    for each in evaluators:
        each.reset()
    logger.info("Start inference on %d batches", len(data_loader))
    timer = _Timer(len(data_loader))
    with evaluation_mode(model), torch.no_grad():
        predict = _predictions_of(model, [each for each in evaluators if _needs_sets(each)])
        for inputs in data_loader:
            timer.lap("Dataloading")
            outputs, sets = predict(inputs)
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            timer.lap("Inference")
            for each in evaluators:
                each.process(inputs, outputs, *([sets] if _needs_sets(each) else []))
            timer.lap("Eval")
            timer.step()
    timer.report()
    results: dict[str, Any] = {}
    for each in evaluators:
        for task, values in (each.evaluate() or {}).items():
            if task in results:
                raise ValueError(f"two evaluators return results of task '{task}'")
            results[task] = values
    return results


def _needs_sets(evaluator: Evaluator) -> bool:
    return getattr(evaluator, "needs_sets", False)


def _predictions_of(model: nn.Module, looking: Sequence[Evaluator]) -> Callable[[Any], tuple[Any, Any]]:
    """Of a batch the model's predictions, and where evaluators are ``looking`` at them its sets, else None."""
    if not looking:
        return lambda inputs: (model(inputs), None)
    if not hasattr(model, "predict_sets"):
        raise UserError(
            f"these metrics need the sets of a decoder, which {type(model).__name__} does not give: it has no "
            "predict_sets\n  evaluate a detrex_ext model, or set dataloader.evaluator.stages=false and "
            "dataloader.evaluator.nms=null"
        )
    for each in looking:
        getattr(each, "prepare", lambda model: None)(model)
    strategies = [s for each in looking for s in getattr(each, "strategies", ())]
    return lambda inputs: model.predict_sets(inputs, strategies) if strategies else model.predict_sets(inputs)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, every module's own mode afterwards."""
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class _Timer:
    """Seconds of all iterations, and per iteration without the first ones; lines as detectron2 logs them."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.warmup = min(_WARMUP, total // 2)
        self.begin = time.perf_counter()
        self.all = {"Dataloading": 0.0, "Inference": 0.0, "Eval": 0.0}
        self._restart()
        self.last_log = self.mark

    def _restart(self) -> None:
        self.start = self.mark = time.perf_counter()
        self.seconds = {"Dataloading": 0.0, "Inference": 0.0, "Eval": 0.0}

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[phase] += now - self.mark
        self.all[phase] += now - self.mark
        self.mark = now

    def step(self) -> None:
        self.done += 1
        if self.done == self.warmup:
            self._restart()
        elif self.mark - self.last_log > _LOG_EVERY_S:
            self.last_log = self.mark
            per = {k: v / self.counted for k, v in self.seconds.items()}
            each = ". ".join(f"{k}: {v:.4f} s/iter" for k, v in per.items())
            total = sum(per.values())
            eta = datetime.timedelta(seconds=int(total * (self.total - self.done)))
            logger.info("Inference done %d/%d. %s. Total: %.4f s/iter. ETA=%s", self.done, self.total, each, total, eta)

    @property
    def counted(self) -> int:
        """Iterations whose time is in the means."""
        return max(self.done - self.warmup if self.done > self.warmup else self.done, 1)

    def report(self) -> None:
        devices = comm.get_world_size()
        now = time.perf_counter()
        for name, total, counted in (
            ("inference time", now - self.begin, now - self.start),
            ("inference pure compute time", self.all["Inference"], self.seconds["Inference"]),
        ):
            shown = str(datetime.timedelta(seconds=int(total)))
            each = counted / self.counted
            logger.info("Total %s: %s (%.6f s / iter per device, on %d devices)", name, shown, each, devices)


def print_csv_format(results: Mapping[str, Any]) -> None:
    """Log results in detectron2's "copypaste" lines, four decimals.

    Metrics of single classes are left out, and so are the best F1 and the losses, which have lines of their own:
    scripts read the last.
    """
    for task, values in results.items():
        if task.endswith("_f1") or task == "val":
            continue
        if isinstance(values, Mapping):
            main = {k: v for k, v in values.items() if "-" not in k}
            logger.info("copypaste: Task: %s", task)
            logger.info("copypaste: %s", ",".join(main))
            logger.info("copypaste: %s", ",".join(f"{v:.4f}" for v in main.values()))
        else:
            logger.info("copypaste: %s=%s", task, values)

