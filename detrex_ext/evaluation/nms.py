"""Box metrics after suppression of duplicates, from the same pass as those without."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import UserError
from ..modeling.postprocess import Postprocess
from ..structures import SupervisedSet
from .loop import Evaluator


class NmsEvaluator:
    """What a model's post-processing would answer with ``nms``, evaluated beside what it does answer.

    For a training it is switched on by ``dataloader.evaluator.nms=0.8``, which changes neither the model nor its
    answers.

    Args:
        boxes: evaluates the answers.
        nms: IoU, as in :class:`~detrex_ext.modeling.postprocess.Postprocess`.

    Raises:
        UserError: it is none.
    """

    needs_sets = True

    def __init__(self, boxes: Evaluator, nms: float) -> None:
        if not 0 < nms <= 1:
            raise UserError(f"dataloader.evaluator.nms is an IoU between 0 and 1, such as 0.8; got {nms}")
        self.boxes, self.nms = boxes, nms
        self._postprocess: Postprocess | None = None

    def reset(self) -> None:
        """Forget all predictions."""
        self.boxes.reset()

    def metric_names(self) -> list[str]:
        """What ``evaluate`` gives, as ``task/name``."""
        return self.boxes.metric_names()

    def prepare(self, model: nn.Module) -> None:
        """Takes the model's post-processing, but for its suppression; a ``UserError`` where it is of another kind."""
        own = getattr(model, "postprocess", None)
        if not isinstance(own, Postprocess):
            raise UserError(
                f"dataloader.evaluator.nms={self.nms} asks for model.postprocess with suppression, which "
                f"{type(own).__name__} does not offer\n  set dataloader.evaluator.nms=null"
            )
        self._postprocess = copy.copy(own)
        self._postprocess.nms = self.nms

    def process(
        self,
        inputs: Sequence[Mapping[str, Any]],
        outputs: Sequence[Mapping[str, Any]],
        sets: Sequence[SupervisedSet],
    ) -> None:
        """Take the sets of a batch; of ``outputs`` only the sizes of the images are used."""
        sizes = [output["instances"].image_size for output in outputs]
        named = [{"height": h, "width": w} for h, w in sizes]
        self.boxes.process(inputs, self._postprocess(sets, torch.tensor(sizes), named))

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """See :meth:`CocoEvaluator.evaluate`."""
        return self.boxes.evaluate()
