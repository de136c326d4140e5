"""The step `matching`: the solver of a GPU finds SciPy's pairs, and what either takes of a step."""

from __future__ import annotations

from functools import partial

import torch

from detrex_ext.matching import HungarianMatcher, on_device, resolve, stack_sets
from detrex_ext.matching.base import Matcher
from detrex_ext.structures import SupervisedSet, Targets

from .table import Case, NotHere, Options, Row, found
from .timing import seconds_of

_SETS, _QUERIES, _CLASSES = 7, 900, 80  # of a step of DINO
_TIME = 0.3  # seconds of a measurement
COUNTS = {"7 and 12 objects": (7, 12), "100 and 3": (100, 3), "300 and none": (300, 0), "8 images of 20": (20,) * 8}
MORE = {"more objects than queries": (40, 9)}


def cases(options: Options) -> list[Case]:
    """By number of objects; costs with ties, as boxes alike have them."""
    sizes = {**{name: (counts, _QUERIES) for name, counts in COUNTS.items()}, **{k: (v, 30) for k, v in MORE.items()}}
    return [Case("what auto chooses", partial(chosen, options))] + [
        Case(f"{name}, {queries} queries", partial(compare, counts, queries, options))
        for name, (counts, queries) in (sizes if not options.quick else {"7 and 12": ((7, 12), 30)}).items()
    ]


def chosen(options: Options) -> Row:
    """A GPU on which the solver is not right falls back to the host, with a warning: here that is a fault."""
    if not options.on_gpu:
        raise NotHere("the solver is for GPUs")
    right = on_device.usable(torch.device(options.device))
    return found(right, "" if right else "the host: a warning in log.txt says why")


def problem(counts: tuple[int, ...], queries: int, device: str) -> tuple[list[SupervisedSet], Targets]:
    """Sets of predictions, a third of each the same as others, and objects."""
    make = torch.Generator().manual_seed(sum(counts))
    B = len(counts)
    sets = []
    for stage in range(_SETS):
        logits, boxes = torch.randn(B, queries, _CLASSES, generator=make), torch.rand(B, queries, 4, generator=make)
        same = queries // 3
        logits[:, :same], boxes[:, :same] = logits[:, :1], boxes[:, :1]
        sets.append(SupervisedSet(logits.to(device), (0.1 + 0.8 * boxes).to(device), stage))
    labels = tuple(torch.randint(0, _CLASSES, (n,), generator=make).to(device) for n in counts)
    boxes = tuple((0.2 + 0.5 * torch.rand(n, 4, generator=make)).to(device) for n in counts)
    return sets, Targets(labels, boxes, torch.full((B, 2), 800.0, device=device))


def pairs(matcher: Matcher, sets: list[SupervisedSet], targets: Targets) -> list[tuple[int, ...]]:
    """Of all sets: (set, image, query, object), sorted."""
    of = resolve([matcher.match(stack_sets(sets), targets)], targets.image_G.device)[0].cls
    rows = torch.stack([of.set_P, of.img_P, of.query_P, of.gt_P], 1)
    return sorted(map(tuple, (rows if of.valid_P is None else rows[of.valid_P]).tolist()))


def compare(counts: tuple[int, ...], queries: int, options: Options) -> Row:
    """Pairs of both, and milliseconds of a step's matching by each, from costs to pairs on the GPU."""
    sets, targets = problem(counts, queries, options.device)
    by = {"scipy": HungarianMatcher(solver="scipy"), "triton": HungarianMatcher(solver="triton")}
    if not options.on_gpu:
        del by["triton"]
    found_by = {name: pairs(matcher, sets, targets) for name, matcher in by.items()}
    ms = {f"{name}_ms": 1e3 * seconds_of(partial(pairs_only, matcher, sets, targets), options.device,
                                         0 if options.quick else _TIME) for name, matcher in by.items()}  # fmt: skip
    odd = set(found_by["scipy"]) ^ set(found_by.get("triton", found_by["scipy"]))
    return found(not odd, f"{len(odd)} pairs are of one alone" if odd else "", pairs=len(found_by["scipy"]), **ms)


def pairs_only(matcher: Matcher, sets: list[SupervisedSet], targets: Targets) -> None:
    """The matching of a step."""
    resolve([matcher.match(stack_sets(sets), targets)], targets.image_G.device)
