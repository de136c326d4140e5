"""The decoder protocol: every query set on one flat token axis, one stage at a time.

Inside a stage only self-attention couples queries; all else acts per token. So sets of every kind (recollected,
auxiliary, denoising, groups) lie side by side, a static table of slots says who may see whom, and each layer runs once.

Shape legend: B images, T tokens, L tokens of a domain, S memory tokens, C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detrex_ext.structures import Given, Memory, Queries, SupervisedSet

from .chunks import fold, in_chunks, reassemble, recomputed

Attend = Callable[..., Tensor]
OUTPUT = "out:"  # how the names of entries of `extra` begin that are outputs of a stage


class StagedDecoder(nn.Module):
    """Base of all hosts: runs the stages and hands every stage's outcome to the strategies.

    A host implements ``project``, ``condition``, ``self_attend``, ``cross_attend`` and ``predict``. Scratch that a
    stage needs per token lives in ``extra`` under names that start with ``_``; ``predict`` drops it (``drop_scratch``).
    What ``predict`` puts there under names that start with :data:`OUTPUT` are the ``outputs`` of the stage's sets.

    Attributes:
        num_layers: number of layers.
        order: layers run in training, default 0..num_layers-1.
        eval_order: layers run at inference, default ``order``.
        chunk: None runs all tokens at once; n runs n self-attention domains at a time with activation checkpointing.
        checkpoint: recompute the stages in the backward pass: less memory, more time.
        routes: by path, the decoder as its sets see it: a view of this one with other parts. Set by strategies.
        readers: strategies that read further outputs of a training stage.
        softmax: class logits are a softmax with "no object" as the last class.
        boxes_in_image: ``predict`` keeps every coordinate of a box in [0, 1], as a sigmoid does.
    """

    softmax = False
    boxes_in_image = True
    checkpoint = False

    def __init__(
        self, num_layers: int, order: Sequence[int] | None = None, eval_order: Sequence[int] | None = None,
        chunk: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.num_layers = num_layers
        self.order = tuple(order) if order is not None else tuple(range(num_layers))
        self.eval_order = tuple(eval_order) if eval_order is not None else self.order
        for name, layers in (("order", self.order), ("eval_order", self.eval_order)):
            if not layers or not all(0 <= i < num_layers for i in layers):
                raise ValueError(f"{name} must name layers 0 to {num_layers - 1}, got {list(layers)}")
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk must be at least 1 (or None for all at once), got {chunk}")
        self.chunk = chunk
        self.routes: dict[str, StagedDecoder] = {}
        self.readers: tuple[Any, ...] = ()

    def prepare(self, mem: Memory) -> Memory:
        """The memory as the stages take it, made once for all of them; unchanged, unless the host says otherwise."""
        return mem

    def project(self, layer: int, mem: Memory) -> Any:
        """``kv`` of this layer from the memory (B, S, C), once however many tokens attend; its form is the host's."""
        raise NotImplementedError

    def condition(self, layer: int, q: Queries, mem: Memory) -> Queries:
        """``x``: the queries that enter, (B, T, C), with positions, codes and references as scratch (B, T, ...)."""
        raise NotImplementedError

    def self_attend(self, layer: int, x: Queries) -> Queries:
        """``x`` with content (B, T, C) after self-attention, residual and norm, per domain (:meth:`per_domain`)."""
        raise NotImplementedError

    def bypass(self, layer: int, x_BTC: Tensor) -> Tensor:
        """(B, T, C) of tokens without self-attention instead of it: the same, unless the host says otherwise."""
        return x_BTC

    def cross_attend(self, layer: int, x: Queries, kv: Any, mem: Memory) -> Queries:
        """``x`` with content (B, T, C) after cross-attention (or sampling and mixing) of ``kv``, FFN and norms."""
        raise NotImplementedError

    def predict(self, layer: int, x: Queries, mem: Memory) -> tuple[Tensor, Tensor, Queries]:
        """Logits (B, T, K), normalized cxcywh boxes (B, T, 4), and the next stage's queries without scratch."""
        raise NotImplementedError

    def forward(self, q: Queries, mem: Memory, strategies: Iterable = (), act: bool = False) -> list[SupervisedSet]:
        """All sets of all stages, tagged with step, group and path.

        Args:
            q: initial queries.
            mem: what they attend to.
            strategies: act between the stages, in training only.
            act: they act in an evaluation too, on the layers of ``eval_order``.
        """
        mem, strategies = self.prepare(mem), tuple(strategies) if self.training or act else ()
        order: Sequence[int] = self.order if self.training else self.eval_order
        for s in strategies:
            order = s.plan(order)
        history, found, sets = [q], [], []
        for s in strategies:
            sets, q = s.after_stage(-1, history, sets, q)
        found += sets
        for step, layer in enumerate(order):
            *predicted, out = self.stage(layer, q, mem)
            sets = self._sets(step, q, *predicted, out)
            q = out.replace(extra={k: v for k, v in out.extra.items() if not k.startswith(OUTPUT)})
            history.append(q)
            for s in strategies:
                sets, q = s.after_stage(step, history, sets, q)
            found += sets
        return found

    def _sets(self, step: int, q: Queries, logits: Tensor, boxes: Tensor, out: Queries) -> list[SupervisedSet]:
        """One set per slot of the queries that entered."""
        more, sets = {k.removeprefix(OUTPUT): v for k, v in out.extra.items() if k.startswith(OUTPUT)}, []
        for s, a, b in q.spans():
            tagged = (step, s.group, s.path, q.given.get(s.group) or Given(), self.softmax, None)
            sets.append(SupervisedSet(logits[:, a:b], boxes[:, a:b], *tagged, {k: v[:, a:b] for k, v in more.items()}))
        return sets

    def stage(self, layer: int, q: Queries, mem: Memory) -> tuple[Tensor, Tensor, Queries]:
        """One stage of all sets: what enters it, and what :meth:`prepare` made of the memory; as :meth:`predict`."""

        def run(part: Queries, kv: Any) -> tuple[Tensor, Tensor, Queries]:
            way = self.routes.get(part.slots[0].path, self) if part.slots else self
            x = way.self_attend(layer, way.condition(layer, part, mem))
            x = way.cross_attend(layer, x, kv, mem)
            logits, boxes, out = way.predict(layer, x, mem)
            for s in self.readers if self.training else ():
                read = {OUTPUT + name: value for name, value in s.readout(self, layer, x, mem).items()}
                out = out.replace(extra={**out.extra, **read})
            return logits, boxes, out

        again = self.training and (self.checkpoint or self.chunk is not None)
        parts = in_chunks(q, self.chunk if self.training else None, self.routes)
        if len(parts) < 2 and self.training and self.checkpoint:  # the projected memory is not kept either
            return recomputed(lambda part: run(part, self.project(layer, mem)), q)
        kv = self.project(layer, mem)
        if len(parts) < 2:
            return run(q, kv)
        outs = [recomputed(lambda part: run(part, kv), x) if again else run(x, kv) for x in map(q.select, parts)]
        return reassemble(q, parts, outs)

    def attend_then_norm(self, layer: int, x: Queries, pos_BTC: Tensor) -> Queries:
        """Self-attention per domain with residual, then the norm: hosts whose layers hold both under detrex's names."""
        block = self.layers[layer]

        def attend(content: Tensor, pos: Tensor, mask: Tensor | None) -> Tensor:
            return block.norms[0](block.attentions[0](content, pos, mask))

        return x.replace(content_BTC=self.per_domain(layer, x, attend, x.content_BTC, pos_BTC))

    def per_domain(self, layer: int, q: Queries, attend: Attend, *streams: Tensor) -> Tensor:
        """Run ``attend(*streams, mask)`` within each self-attention domain.

        Domains of equal length and mask are folded into the batch: one call for all of them. Tokens without a domain
        take :meth:`bypass` of the first stream.

        Args:
            layer: index of the layer.
            q: its slots and masks.
            attend: from streams (B', L, ...) and a mask (L, L) or None to (B', L, C).
            *streams: tensors (B, T, ...); the first is the content.

        Returns:
            (B, T, C).
        """
        domains = q.domains()
        if len(domains) == 1 and all(s.domain is not None for s in q.slots):
            return attend(*streams, q.masks.get(next(iter(domains))))
        alike: dict[tuple[int, int | None], list[list[tuple[int, int]]]] = {}
        for domain, spans in domains.items():
            mask = q.masks.get(domain)
            length = sum(b - a for a, b in spans)
            alike.setdefault((length, None if mask is None else id(mask)), []).append(spans)
        by_id = {id(m): m for m in q.masks.values()}
        pieces: list[tuple[int, Tensor]] = []
        for (length, mask_id), members in alike.items():
            folded = [fold(s, members, length) for s in streams]
            out = attend(*folded, by_id.get(mask_id)).unflatten(0, (-1, len(members)))
            for n, spans in enumerate(members):
                at = 0
                for a, b in spans:
                    pieces.append((a, out[:, n, at : at + b - a]))
                    at += b - a
        free = [(a, b) for s, a, b in q.spans() if s.domain is None]
        pieces += [(a, self.bypass(layer, streams[0][:, a:b])) for a, b in free]
        return torch.cat([p for _, p in sorted(pieces, key=lambda item: item[0])], 1)


def drop_scratch(extra: dict[str, Tensor]) -> dict[str, Tensor]:
    """``extra``, tensors (B, T, ...), without a stage's scratch (names that start with ``_``)."""
    return {k: v for k, v in extra.items() if not k.startswith("_")}
