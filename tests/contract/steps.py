"""A training step in double precision, all that comes out of it, and the same step in another form."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import fields, replace

import torch
from torch import Tensor

from detrex_ext.modeling.decoders.staged import StagedDecoder
from detrex_ext.modeling.detector import Detector
from detrex_ext.strategies import Strategy
from detrex_ext.structures import Memory, Queries
from detrex_ext.testing import example_batch


def training_step(
    model: Detector,
    strategy: Strategy,
    objects: tuple[int, ...],
    change: Callable[[StagedDecoder], None] = lambda decoder: None,
) -> dict[str, Tensor]:
    """Every set, loss and gradient by name; the model is left as it was, ``change`` acts on a copy of its decoder."""
    model = copy.deepcopy(model).double().train()
    change(model.decoder)
    torch.manual_seed(0)  # a strategy draws the weights that it starts with
    model.use({"checked": strategy})
    found: dict[str, Tensor] = {}

    def keep(decoder: StagedDecoder, given: tuple, sets: list) -> None:
        for i, s in enumerate(sets):
            name = f"set {i} ({s.stage}, {s.group}, {s.path})"
            found.update({f"logits of {name}": s.logits_BQK.detach(), f"boxes of {name}": s.boxes_BQ4.detach()})

    model.decoder.register_forward_hook(keep)
    torch.manual_seed(0)
    losses = model(example_batch(model.num_classes, objects))
    sum(losses.values()).backward()
    grads = {f"gradient of {k}": p.grad for k, p in model.named_parameters() if p.grad is not None}
    return {**found, **losses.stats, **grads}


def assert_same_step(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """The same to rounding in double precision."""
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-11, msg=lambda why, n=name: f"{n}: {why}")


def repeat_memory(decoder: StagedDecoder) -> None:
    """Make recollected sets images of their own, each with a copy of the memory, as the original's fast form does."""
    stage = decoder.stage

    def stacked(layer: int, q: Queries, mem: Memory) -> tuple[Tensor, Tensor, Queries]:
        older = [s.path == "recollect" for s in q.slots]
        S = sum(older)
        if not S:
            return stage(layer, q, mem)
        assert older == [True] * S + [False] * (len(older) - S) and len({s.size for s in q.slots[:S]}) == 1
        sets = _tensors(q.select(older), lambda x: x.unflatten(1, (S, -1)).transpose(0, 1).flatten(0, 1))
        copies = {f.name: getattr(mem, f.name) for f in fields(mem)}
        copies = {k: v.repeat(S, *[1] * (v.ndim - 1)) for k, v in copies.items() if isinstance(v, Tensor)}
        first = stage(layer, sets.replace(slots=sets.slots[:1]), replace(mem, **copies))
        rest = stage(layer, q.select([not x for x in older]), mem)

        def join(a: Tensor, b: Tensor) -> Tensor:
            return torch.cat([a.unflatten(0, (S, -1)).transpose(0, 1).flatten(1, 2), b], 1)

        a, b = first[2], rest[2]
        points = [a.slots[0].point] * S + [s.point for s in b.slots]
        out = Queries(
            join(a.content_BTC, b.content_BTC),
            join(a.ref_BT4, b.ref_BT4),
            tuple(replace(s, point=p) for s, p in zip(q.slots, points, strict=True)),
            q.masks,
            q.given,
            {k: join(v, b.extra[k]) for k, v in a.extra.items()},
        )
        return join(first[0], rest[0]), join(first[1], rest[1]), out

    decoder.stage = stacked


def _tensors(q: Queries, change: Callable[[Tensor], Tensor]) -> Queries:
    """The same queries with all their tensors changed; their slots are the caller's to mend."""
    changed = copy.copy(q)
    changed.content_BTC, changed.ref_BT4 = change(q.content_BTC), change(q.ref_BT4)
    changed.extra = {k: change(v) for k, v in q.extra.items()}
    return changed
