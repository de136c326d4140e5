"""Query sets on one flat token axis.

Shape legend: B images, T tokens (all query sets side by side), L tokens of one self-attention domain, C channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import accumulate

import torch
from torch import Tensor

from .supervision import Given, tokens_at


@dataclass(frozen=True)
class Slot:
    """One query set on the token axis.

    Attributes:
        size: tokens of the set; an empty group is a slot of size 0, never absent, so that every rank has the same
            losses and the same parameters in use.
        group: where the queries come from, never changed: ``main | dn | hybrid | group | enc | token``.
        path: how they came to this stage: ``plain | recollect | aux``.
        domain: slots of one domain share one self-attention call; ``None`` means no self-attention.
        point: the references are points: only their x and y are known, width and height are zero.
    """

    size: int
    group: str = "main"
    path: str = "plain"
    domain: int | None = 0
    point: bool = False


@dataclass
class Queries:
    """All queries of a decoder stage.

    Attributes:
        content_BTC: query content.
        ref_BT4: reference of each token, always four wide, in the host's geometry.
        slots: the sets, in token order; their sizes sum to T.
        masks: per domain an (L, L) bool mask, True = may attend; absent = all see all.
        given: per group what its source knows of it.
        extra: (B, T, ...) tensors carried along per token.
    """

    content_BTC: Tensor
    ref_BT4: Tensor
    slots: tuple[Slot, ...]
    masks: dict[int, Tensor] = field(default_factory=dict)
    given: dict[str, Given] = field(default_factory=dict)
    extra: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tokens = sum(s.size for s in self.slots)
        if self.content_BTC.shape[1] != tokens or self.ref_BT4.shape[1] != tokens:
            raise ValueError(
                f"slots hold {tokens} tokens, content has {self.content_BTC.shape[1]}, "
                f"references {self.ref_BT4.shape[1]}"
            )

    def spans(self) -> list[tuple[Slot, int, int]]:
        """(slot, start, end) of each set on the token axis."""
        spans, start = [], 0
        for slot in self.slots:
            spans.append((slot, start, start + slot.size))
            start += slot.size
        return spans

    def domains(self) -> dict[int, list[tuple[int, int]]]:
        """Token spans (start, end) of each self-attention domain, in token order; slots without one are left out."""
        found: dict[int, list[tuple[int, int]]] = {}
        for slot, start, end in self.spans():
            if slot.domain is not None:
                found.setdefault(slot.domain, []).append((start, end))
        return found

    def replace(self, **changes) -> Queries:
        """A copy with some fields changed."""
        return replace(self, **changes)

    def take(self, groups: str | Iterable[str] | None = None, paths: str | Iterable[str] | None = None) -> Queries:
        """The sets of the named groups and paths (None = all), in their order."""
        groups = (groups,) if isinstance(groups, str) else groups
        paths = (paths,) if isinstance(paths, str) else paths
        return self.select([(not groups or s.group in groups) and (not paths or s.path in paths) for s in self.slots])

    def select(self, chosen: list[bool]) -> Queries:
        """The sets where ``chosen`` (one flag per slot) is true; a domain's mask is cut to the tokens that stay."""
        spans = self.spans()
        keep = [(start, end) for (_, start, end), on in zip(spans, chosen, strict=True) if on]
        slots = tuple(s for s, on in zip(self.slots, chosen, strict=True) if on)
        masks = {}
        for domain, mask in self.masks.items():
            flags = [(s.size, on) for s, on in zip(self.slots, chosen, strict=True) if s.domain == domain]
            if all(on for _, on in flags):
                masks[domain] = mask
            elif any(on for _, on in flags):
                ends = accumulate(size for size, _ in flags)
                stay = [(end - size, end) for (size, on), end in zip(flags, ends, strict=True) if on]
                masks[domain] = _gather(_gather(mask, stay).T, stay).T.contiguous()
        return Queries(
            _gather(self.content_BTC, keep),
            _gather(self.ref_BT4, keep),
            slots,
            masks,
            {g: v for g, v in self.given.items() if any(s.group == g for s in slots)},
            {k: _gather(v, keep) for k, v in self.extra.items()},
        )

    def pick(self, index: Tensor) -> Queries:
        """Some tokens of one set, in any order and as often as named: the best of each image, for instance.

        :meth:`take` and :meth:`select` choose whole sets, this one chooses within a set. Beside the group's other
        sets (``cat``) the last set's ``given`` stands for the group.

        Args:
            index: int64, (B, N) for each image its own, or (N,) the same for all.

        Raises:
            ValueError: several sets; a mask, which is one for all images, with an ``index`` for each; given pairs.
        """
        if len(self.slots) != 1:
            raise ValueError(f"pick chooses tokens of one set, these are {len(self.slots)}: take or select one first")
        if self.masks and index.ndim > 1:
            raise ValueError("a mask is the same for all images: pick by an (N,) index, or .replace(masks={}) first")
        rows_BN = index.expand(len(self.content_BTC), -1)
        return Queries(
            tokens_at(self.content_BTC, rows_BN),
            tokens_at(self.ref_BT4, rows_BN),
            (replace(self.slots[0], size=index.shape[-1]),),
            {d: m[index][:, index] for d, m in self.masks.items()},
            {g: v.pick(rows_BN) for g, v in self.given.items()},
            {k: tokens_at(v, rows_BN) for k, v in self.extra.items()},
        )

    def retag(self, *, path: str | None = None, attend: bool = True) -> Queries:
        """The same tokens as sets of another path; ``attend=False`` takes them out of self-attention."""
        slots = tuple(
            replace(s, path=s.path if path is None else path, domain=s.domain if attend else None) for s in self.slots
        )
        return replace(self, slots=slots, masks=self.masks if attend else {})


def cat(first: Queries, *others: Queries) -> Queries:
    """Sets of several ``Queries`` side by side on the token axis, in argument order.

    The *last* argument keeps its domain numbers (it is the plain path by convention); the domains of the others
    are renumbered so that no added set shares a self-attention call with it.

    Raises:
        ValueError: if the keys of ``extra`` differ: a token would lose what its host carries along.
    """
    parts = (first, *others)
    for part in parts:
        if part.extra.keys() != first.extra.keys():
            raise ValueError(f"extra keys differ: {sorted(first.extra)} and {sorted(part.extra)}")
    fresh = 1 + max((s.domain for p in parts for s in p.slots if s.domain is not None), default=-1)
    slots: list[Slot] = []
    masks: dict[int, Tensor] = {}
    given: dict[str, Given] = {}
    for part in parts:
        names: dict[int, int] = {}
        for slot in part.slots:
            if slot.domain is not None and slot.domain not in names:
                names[slot.domain] = slot.domain if part is parts[-1] else fresh
                fresh += part is not parts[-1]
            slots.append(slot if slot.domain is None else replace(slot, domain=names[slot.domain]))
        masks.update({names[d]: m for d, m in part.masks.items()})
        given.update(part.given)
    return Queries(
        torch.cat([p.content_BTC for p in parts], 1),
        torch.cat([p.ref_BT4 for p in parts], 1),
        tuple(slots),
        masks,
        given,
        {k: torch.cat([p.extra[k] for p in parts], 1) for k in first.extra},
    )


def _gather(x_BT: Tensor, spans: list[tuple[int, int]]) -> Tensor:
    """Columns of the spans; a view where they are contiguous."""
    merged: list[list[int]] = []
    for start, end in spans:
        if start == end:
            continue
        if merged and merged[-1][1] == start:
            merged[-1][1] = end
        else:
            merged.append([start, end])
    if len(merged) == 1:
        return x_BT[:, merged[0][0] : merged[0][1]]
    return torch.cat([x_BT[:, s:e] for s, e in merged], 1) if merged else x_BT[:, :0]
