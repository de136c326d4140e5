"""Queries per object during an evaluation."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..checkpoint.files import write_json
from ..data.ground_truth import GroundTruth, read_ground_truth
from ..errors import UserError
from ..matching.stack import stack_sets
from ..runtime import comm
from ..structures import Targets
from .streams import STREAMS, decode_streams
from .watched import DecoderSets

if TYPE_CHECKING:
    from ..analysis.affinity import QueriesPerObject

logger = logging.getLogger(__name__)


class QueryEvaluator:
    """How many queries are near each object at every stage, see ``analysis.affinity.QueriesPerObject``.

    Crowd regions are no objects; no query is left out by score or suppression.

    Args:
        json: COCO annotation file, or one read already.
        thresholds: affinity that queries must exceed to be counted.
        affinity: ``mix``, ``iou`` or ``aligned``, see ``analysis.affinity.affinity``.
        streams, start: which queries, see ``decode_streams``.
        output: JSON file of the figures of all stages; None = not written.

    Raises:
        UserError: the file is missing or has no usable categories.
    """

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
        self.streams, self.start, self.output = tuple(streams), start, output
        self._sets = DecoderSets("")
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        from ..analysis.affinity import QueriesPerObject

        self.queries: QueriesPerObject = QueriesPerObject(self.thresholds)

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """Read what ``model.decoder`` returns, all streams of it, while this is held."""
        with decode_streams(model, self.streams, self.start), self._sets.watch(model):
            yield

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Take the predictions of a batch.

        Args:
            inputs: each with ``image_id``.
            outputs: what the model made of them; the size of the original pictures is taken from it.

        Raises:
            UserError: an image that the annotation file does not have, or classes that it does not have.
        """
        from ..analysis.affinity import affinity

        paths = ["plain" if name == "main" else name for name in self.streams]
        sets = sorted((s for s in self._sets.take() if s.group == "main" and s.path in paths), key=lambda s: s.stage)
        sets = [s for path in paths for s in sets if s.path == path]
        images = [self.truth.index_of(given) for given in inputs]
        targets = self._targets(images, [output["instances"].image_size for output in outputs])
        stack = stack_sets(sets)
        found, wanted = stack.shape[-1] - stack.softmax, len(self.class_names)
        if found != wanted:
            raise UserError(f"the model has {found} classes, {self.json} has {wanted}")
        self.queries.add(images, affinity(stack, targets.to(stack.device), self.affinity), targets)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """The figures of everything taken since ``reset``, of all ranks; those of all stages in the file.

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
            counts = {"images": len(self.queries.pictures), "objects": self.queries.objects}
            write_json({**counts, "above": above, "best": best}, self.output)
        figures: dict[str, float] = {}
        for name in self.streams:
            figures |= {f"{name}>{t:g}": value for t, value in zip(self.thresholds, above[name][-1], strict=True)}
            figures[f"{name}_best"] = best[name][-1]
        return {"queries": figures}

    def _targets(self, images: list[int], sizes: list[tuple[int, int]]) -> Targets:
        labels, boxes, table = [], [], self.truth.boxes
        for image, (height, width) in zip(images, sizes, strict=True):
            rows = [] if table is None else [r for r in self.truth.rows_of(image) if not table.crowd_P[r]]
            xywh_G4 = torch.zeros(0, 4) if table is None else torch.from_numpy(table.xywh_P4[rows]).float()
            classes_G = [] if table is None else table.class_P[rows]
            labels.append(torch.as_tensor(classes_G, dtype=torch.int64))
            unit = xywh_G4.new_tensor([width, height, width, height])
            boxes.append(torch.cat([xywh_G4[:, :2] + xywh_G4[:, 2:] / 2, xywh_G4[:, 2:]], 1) / unit)
        return Targets(tuple(labels), tuple(boxes), torch.tensor(sizes))
