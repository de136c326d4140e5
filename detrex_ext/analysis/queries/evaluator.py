"""Queries per object during an evaluation, with and without self-attention beside each other in one pass."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ...checkpoint.files import write_json
from ...data.ground_truth import GroundTruth, read_ground_truth
from ...errors import UserError
from ...matching import stack_sets
from ...modeling.decoders.staged import StagedDecoder
from ...runtime import comm
from ...strategies import Strategy
from ...structures import Queries, SupervisedSet, cat
from ..truth import targets_of
from .counting import QueriesPerObject, affinity

logger = logging.getLogger(__name__)

STREAMS = ("main", "aux", "no_sa")


class Streams(Strategy):
    """Adds sets of the main queries that see no other query, beside those as they are: paths ``aux`` and ``no_sa``.

    What a model predicts is not changed.

    Args:
        streams: of ``STREAMS``. ``main``: the queries as they are. ``aux``: as divide-and-conquer trains its
            auxiliary sets, see ``DivideAndConquer(start=...)``. ``no_sa``: without self-attention in any stage.
        start: of ``aux``.

    Raises:
        ValueError: another stream.
    """

    def __init__(self, streams: Sequence[str], start: str = "shared") -> None:
        if not set(streams) <= set(STREAMS):
            raise ValueError(f"streams are some of {', '.join(STREAMS)}, got {', '.join(streams)}")
        leave = {"aux": 0 if start == "shared" else -1, "no_sa": -1}
        self.leave = {name: step for name, step in leave.items() if name in streams}

    def after_stage(
        self, step: int, history: Sequence[Queries], sets: list[SupervisedSet], q: Queries
    ) -> tuple[list[SupervisedSet], Queries]:
        """Adds the streams to the sets, see :meth:`Strategy.after_stage`."""
        main = [s for s in sets if (s.group, s.path) == ("main", "plain")]
        for name in (name for name, at in self.leave.items() if at == step):
            q = cat(history[-1].take("main", "plain").retag(path=name, attend=False), q)
            sets = [*sets, *(replace(s, path=name) for s in main)]
        return sets, q


class QueryEvaluator:
    """How many queries are near each object at every stage, see :class:`QueriesPerObject`.

    Crowd regions are no objects; no query is left out by score or suppression.

    Args:
        json: COCO annotation file, or one read already.
        thresholds: affinity that queries must exceed to be counted.
        affinity: ``mix``, ``iou`` or ``aligned``, see :func:`affinity`.
        streams, start: which queries, see :class:`Streams`.
        output: JSON file of the metrics of all stages; None = not written.

    Raises:
        UserError: the file is missing or has no usable categories.
        ValueError: another stream.
    """

    needs_sets = True

    def __init__(
        self,
        json: str | Path | GroundTruth,
        thresholds: Sequence[float] = (0.6, 0.7, 0.8),
        affinity: str = "mix",
        streams: Sequence[str] = STREAMS,
        start: str = "shared",
        output: str | Path | None = None,
    ) -> None:
        self.truth = read_ground_truth(json)
        self.json = self.truth.json
        self.class_names, self.category_ids = map(list, self.truth.classes)
        self.thresholds, self.affinity = tuple(map(float, thresholds)), affinity
        self.streams, self.strategies, self.output = tuple(streams), (Streams(streams, start),), output
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self.queries = QueriesPerObject(self.thresholds)

    def prepare(self, model: nn.Module) -> None:
        """Raises a ``UserError`` where the model has no staged decoder."""
        decoder = getattr(model, "decoder", None)
        if not isinstance(decoder, StagedDecoder):
            raise UserError(
                f"queries are followed through a staged decoder; the decoder of {type(model).__name__} is "
                f"{type(decoder).__name__}"
            )

    def process(
        self,
        inputs: Sequence[Mapping[str, Any]],
        outputs: Sequence[Mapping[str, Any]],
        sets: Sequence[SupervisedSet],
    ) -> None:
        """Take the predictions of a batch.

        Args:
            inputs: each with ``image_id``.
            outputs: what the model made of them; the size of the original images is taken from it.
            sets: what its decoder emitted, all streams of it.

        Raises:
            UserError: an image that the annotation file does not have, or classes that it does not have.
        """
        paths = ["plain" if name == "main" else name for name in self.streams]
        main = sorted((s for s in sets if s.group == "main" and s.stage >= 0), key=lambda s: s.stage)
        stack = stack_sets([s for path in paths for s in main if s.path == path])
        images = [self.truth.index_of(given) for given in inputs]
        targets = targets_of(self.truth, images, [output["instances"].image_size for output in outputs])
        self.truth.check_classes(stack.shape[-1] - stack.softmax)
        self.queries.add(images, affinity(stack, targets.to(stack.device), self.affinity), targets)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """The metrics of everything taken since ``reset``, of all ranks; those of all stages in the file.

        Returns:
            Of the last stage ``{"queries": {"main>0.6": ..., "main_best": ...}}``; empty on ranks other than 0 and
            where there was no object.
        """
        gathered = comm.gather(self.queries)
        if not comm.is_main_process():
            return {}
        for queries in gathered:
            self.queries.merge(queries)
        if not self.queries.objects:
            logger.warning("no queries per object: nothing was predicted, or %s has no annotations", self.json)
            return {}
        tables = (x.unflatten(0, (len(self.streams), -1)).tolist() for x in self.queries.result())
        above, best = (dict(zip(self.streams, table, strict=True)) for table in tables)
        if self.output is not None:
            counts = {"images": len(self.queries.images), "objects": self.queries.objects}
            write_json({**counts, "above": above, "best": best}, self.output)
        metrics: dict[str, float] = {}
        for name in self.streams:
            metrics |= {f"{name}>{t:g}": value for t, value in zip(self.thresholds, above[name][-1], strict=True)}
            metrics[f"{name}_best"] = best[name][-1]
        return {"queries": metrics}
