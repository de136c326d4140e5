"""A stage's query sets in parts: those of a route, and a few at a time, computed again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from detrex_ext.structures import Queries

Stage = tuple[Tensor, Tensor, Queries]


def in_chunks(q: Queries, size: int | None, routes: Container[str] = ()) -> list[list[bool]]:
    """Flags per slot for each run of ``size`` whole self-attention domains; a slot without a domain counts as one.

    Paths that are ``routes`` are parts of their own. Without a size they are all that parts.
    """
    keys = [("slot", i) if s.domain is None else ("domain", s.domain) for i, s in enumerate(q.slots)]
    ways = [s.path if s.path in routes else None for s in q.slots]
    parts = []
    for way in dict.fromkeys(ways):
        names = list(dict.fromkeys(key for key, own in zip(keys, ways, strict=True) if own == way))
        step = size or len(names)
        groups = [names[i : i + step] for i in range(0, len(names), step)]
        parts += [[key in group and own == way for key, own in zip(keys, ways, strict=True)] for group in groups]
    return parts


def recomputed(run: Callable[[Queries], Any], q: Queries) -> Any:
    """``run(q)``, which the backward pass computes again instead of keeping what is inside."""
    # by the tensors it is given torch knows the device whose random state dropout must find again; it does not look
    # into queries
    return checkpoint(lambda content_BTC, part: run(part), q.content_BTC, q, use_reentrant=False)


def reassemble(q: Queries, parts: Sequence[Sequence[bool]], outs: Sequence[Stage]) -> Stage:
    """Logits (B, T, K), boxes (B, T, 4) and queries of all chunks in the slot order of ``q``."""
    where: dict[int, tuple[int, int, int]] = {}
    points: dict[int, bool] = {}
    for c, flags in enumerate(parts):
        on = [i for i, flag in enumerate(flags) if flag]
        after = outs[c][2]
        where.update({i: (c, a, b) for i, (_, a, b) in zip(on, after.spans(), strict=True)})
        points.update({i: s.point for i, s in zip(on, after.slots, strict=True)})

    def join(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat([tensors[c][:, a:b] for c, a, b in (where[i] for i in range(len(q.slots)))], 1)

    logits, boxes, nexts = zip(*outs, strict=True)
    joined = Queries(
        join([n.content_BTC for n in nexts]),
        join([n.ref_BT4 for n in nexts]),
        tuple(replace(s, point=points[i]) for i, s in enumerate(q.slots)),
        q.masks,
        q.given,
        {k: join([n.extra[k] for n in nexts]) for k in nexts[0].extra},
    )
    return join(logits), join(boxes), joined


def fold(x_BT: Tensor, members: list[list[tuple[int, int]]], length: int) -> Tensor:
    """(B, T, ...) -> (B n, L, ...) for n domains of equal length; a view where their tokens are contiguous."""
    spans = [span for m in members for span in m]
    if all(a[1] == b[0] for a, b in zip(spans, spans[1:], strict=False)):
        picked = x_BT[:, spans[0][0] : spans[-1][1]]
    else:
        picked = torch.cat([x_BT[:, a:b] for a, b in spans], 1)
    return picked.unflatten(1, (len(members), length)).flatten(0, 1)
