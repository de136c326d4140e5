"""Sparsity of cross-attention during an evaluation (TSP, arXiv 2011.10881, section 3.2).

Shape legend: B images, H heads, L queries, M keys.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ...checkpoint.files import write_json
from ...data.ground_truth import GroundTruth, read_ground_truth
from ...errors import UserError
from ...modeling.decoders.staged import StagedDecoder
from ...runtime import comm
from ...structures import Memory, Queries, SupervisedSet
from .entropy import negative_entropy

logger = logging.getLogger(__name__)
FIGURES = ("sparsity", "size_free", "keys")


class _Attention(TorchFunctionMode):
    """Hands queries, keys and mask of every attention over so many keys on, and leaves it as it is."""

    def __init__(self, keys: int, seen: Callable[[Tensor, Tensor, Tensor | None], None]) -> None:
        super().__init__()
        self.keys, self.seen = keys, seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and args[1].shape[-2] == self.keys:
            self.seen(args[0], args[1], args[3] if len(args) > 3 else kwargs.get("attn_mask"))
        return func(*args, **kwargs)


class SparsityEvaluator:
    """Mean negative entropy of cross-attention, at every stage of a decoder that attends to all of its memory.

    ``sparsity``: of a query's attention over m keys the sum of p log p, divided by m; ``size_free``: 1 minus the
    entropy divided by log m, 0 where attention is even and 1 where it is at one key; ``keys``: m. Means over heads and
    queries of an image, then over images. Keys that are masked as padding do not count.

    Args:
        json: COCO annotation file of the images, or one read already.
        output: JSON file of the figures of all stages; None = not written.

    Raises:
        UserError: the file is missing or has no usable categories.
    """

    needs_sets = True

    def __init__(self, json: str | Path | GroundTruth, output: str | Path | None = None) -> None:
        self.truth = read_ground_truth(json)
        self.json, self.output = self.truth.json, output
        self.class_names, self.category_ids = map(list, self.truth.classes)
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self.images: dict[int, Tensor] = {}
        self._stages: list[Tensor] = []

    def prepare(self, model: nn.Module) -> None:
        """Watches the cross-attention of the model's decoder; a ``UserError`` where it has no staged one."""
        decoder = getattr(model, "decoder", None)
        if not isinstance(decoder, StagedDecoder):
            raise UserError(f"attention is watched in a staged decoder; {type(model).__name__} has none")
        self._decoder, inner = type(decoder).__name__, type(decoder).cross_attend

        def cross_attend(layer: int, x: Queries, kv: Any, mem: Memory) -> Queries:
            seen: list[Tensor] = []
            with _Attention(mem.tokens_BSC.shape[1], lambda *attention: seen.append(figures(*attention))):
                out = inner(decoder, layer, x, kv, mem)
            self._stages += [torch.stack(seen).mean(0)] if seen else []
            return out

        decoder.cross_attend = cross_attend

    def process(
        self,
        inputs: Sequence[Mapping[str, Any]],
        outputs: Sequence[Mapping[str, Any]],
        sets: Sequence[SupervisedSet],
    ) -> None:
        """Take what was seen in a batch.

        Raises:
            UserError: an image that the annotation file does not have, or nothing was seen.
        """
        stages, self._stages = self._stages, []
        if not stages:
            raise UserError(
                f"{self._decoder} does not attend to all tokens of its memory: there is no map to measure"
                "\n  queries that sample some points, or are tokens themselves, have none; DETR and DAB-DETR do"
            )
        for b, given in enumerate(inputs):
            self.images[self.truth.index_of(given)] = torch.stack([figures_B3[b] for figures_B3 in stages]).cpu()

    def evaluate(self) -> dict[str, dict[str, float]]:
        """The figures of the last stage, those of all stages in the file; empty on other ranks than 0."""
        gathered = comm.gather(self.images)
        if not comm.is_main_process():
            return {}
        images = {image: found for part in gathered for image, found in part.items()}
        if not images:
            logger.warning("no sparsity: no image was predicted")
            return {}
        mean_L3 = torch.stack([images[i] for i in sorted(images)]).nanmean(0)
        by_stage = dict(zip(FIGURES, mean_L3.T.tolist(), strict=True))
        if self.output is not None:
            write_json({"images": len(images), **by_stage}, self.output)
        return {"attention": {name: values[-1] for name, values in by_stage.items()}}


def figures(q_BHLD: Tensor, k_BHMD: Tensor, mask: Tensor | None) -> Tensor:
    """(B, 3) :data:`FIGURES` of each image, means over heads and queries."""
    minus_BHL, m_BHL = negative_entropy(q_BHLD, k_BHMD, mask)
    m_BHL = m_BHL.double()
    free_BHL = (1 + minus_BHL / m_BHL.log()).where(m_BHL > 1, torch.ones_like(m_BHL))
    return torch.stack([minus_BHL / m_BHL, free_BHL, m_BHL], -1).flatten(1, 2).nanmean(1)
