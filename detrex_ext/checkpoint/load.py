"""Weights of a file into a model: names translated, shapes compared, and a report of what fitted."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detrex_ext.errors import UserError
from detrex_ext.structures import is_training_only

from .classes import rows_by_name
from .coco import COCO_NAMES
from .files import read_checkpoint
from .foreign import AVERAGED, as_tensors, found_in, spellings
from .layouts import LAYOUTS, OURS, Layout, candidates
from .query_rows import common_rows, number_hint
from .report import LoadReport
from .shards import part_like
from .soundness import check_sound

logger = logging.getLogger(__name__)


def load_weights(
    model: nn.Module,
    path: str | os.PathLike,
    strict: bool = True,
    source: str = "model",
    classes: Sequence[str] | None = None,
    file_classes: Sequence[str] | None = None,
) -> LoadReport:
    """Loads the weights of any known file into a model: ours, detrex's, the authors', torchvision's, a ``.pkl``.

    The kind of file is told from its keys. A file of a backbone alone is compared with the backbone alone.

    Args:
        model: the model; untouched where this raises.
        path: local path, http(s) or ``detectron2://``.
        strict: every tensor must fit; otherwise what does not fit keeps its value and is logged.
        source: part of the file to read: ``model``, or ``ema_state`` for averaged weights, whatever the file calls
            them.
        classes: names of the model's classes. Class rows then go by name, and those of other classes stay.
        file_classes: names of the file's classes, where it does not hold them itself; by default those of a published
            file with 80 classes are COCO's.

    Raises:
        UserError: an unreadable file; one that does not fit under ``strict``; one that fits less than half of the
            model, strict or not.
    """
    data = read_checkpoint(path)
    state = part_of(data, source, os.fspath(path))
    names = file_classes or data.get("class_names")
    where = found_in(data) if data.foreign else ""
    if data.foreign and len(data.places) > 1:
        logger.info("%s: the %s weights are taken", path, "averaged" if source in AVERAGED else "trained")
    how = {"strict": strict, "classes": classes, "file_classes": names, "where": where}
    report = load_state(model, state, name=os.fspath(path), **how)
    logger.info("%s: %s", path, report)
    return report


def part_of(data: Mapping[str, Any], source: str, name: str) -> Mapping[str, Any]:
    """The weights of a checkpoint's contents that ``source`` asks for.

    Raises:
        UserError: it holds none.
    """
    asked = [key for key in (AVERAGED if source in AVERAGED else (source,)) if data.get(key)]
    if not asked:
        raise UserError(f"checkpoint {name}: holds no '{source}'; it has {', '.join(sorted(map(str, data)))}")
    return data[asked[0]]


def load_state(
    model: nn.Module,
    state: Mapping[str, Any],
    strict: bool = True,
    name: str = "state",
    classes: Sequence[str] | None = None,
    file_classes: Sequence[str] | None = None,
    where: str = "",
) -> LoadReport:
    """Like ``load_weights``, from a state dict in memory; messages call it ``name``, and ``where`` a file has it."""
    tensors, others = as_tensors(state, name, meta=any(p.is_meta for p in model.parameters()))
    own = model.state_dict(keep_vars=True)
    answers = []
    for prefixes, spelled in spellings(tensors).items():
        for layout in candidates(spelled, own):
            values, report = rename(spelled, own, layout)
            report.prefixes, report.others = prefixes, others
            if classes:
                then = file_classes or published_classes(values, layout.name)
                report.sliced += rows_by_name(values, model, then, classes) if then else []
            if not strict:
                report.sliced += common_rows(values, model, own)
            answers.append((report, _fit(values, own, layout, report)))
    report, chosen = max(answers, key=lambda answer: len(answer[0].matched))
    if 2 * len(report.matched) < report.total or not report.matched or (strict and not report.complete):
        raise _unfit(name, where, [tried for tried, _ in answers], report, tensors, model)
    check_sound(chosen, own, name)
    with torch.no_grad():
        model.load_state_dict({key: part_like(value, own[key]) for key, value in chosen.items()}, strict=False)
    return report


def _unfit(
    name: str, where: str, tried: Sequence[LoadReport], best: LoadReport, keys: Collection[str], model: nn.Module
) -> UserError:
    """What a person needs to see why a file does not fit: the best answer, and all that were tried."""
    looks = f"it looks like {guess(best, keys)}, {len(best.matched)} of {best.total} tensors fit"
    little = 2 * len(best.matched) < best.total or not best.matched
    what = "made by another model, less than half of this one is in it" if little else "does not fit the model"
    lines = [f"checkpoint {name}: {what}: {looks}", *str(best).splitlines()]
    lines += number_hint(best.mismatched, model)
    lines += [f"found: {where}"] if where else []
    lines += [f"tried: {', '.join(one.tried() for one in tried)}"]
    return UserError("\n  ".join(lines))


def guess(report: LoadReport, keys: Collection[str]) -> str:
    """What a file seems to be, for messages."""
    if report.layout != OURS.name:
        return report.layout
    ours = ("backbone.", "neck.", "encoder.", "queries.", "decoder.")
    known = keys and all(key.startswith(ours) for key in keys)
    return "a detrex_ext model" if known else "no layout that is known"


def published_classes(values: Mapping[str, Tensor], layout: str) -> tuple[str, ...] | None:
    """COCO's classes, where tensors by our names are of a layout that is published for COCO and have as many rows."""
    heads = [v for k, v in values.items() if k.startswith("decoder.class_embed.") and k.endswith(".bias")]
    rows = (len(COCO_NAMES), len(COCO_NAMES) + 1)  # one more for "no object"
    zoo = any(table.zoo and table.name == layout for table in LAYOUTS)
    return COCO_NAMES if zoo and any(len(v) in rows for v in heads) else None


def rename(
    tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], layout: Layout, hints: Collection[str] = ()
) -> tuple[dict[str, Tensor], LoadReport]:
    """Tensors of a file by our names, rows adapted to the model's.

    Args:
        tensors: by the file's names.
        own: the model's; empty where there is none to ask, and then nothing is unexpected.
        layout: of the file.
        hints: instead of the keys of ``own``, what to take for names of the model.
    """
    report, chosen = LoadReport(layout=layout.name, scope=layout.scope), {}
    for key, ours in layout.rename(tensors, hints or own).items():
        if ours is None:
            report.dropped.append(key)
            continue
        ours = _place(ours, own)
        if ours not in own and is_training_only(ours):
            report.dropped.append(key)
        elif own and ours not in own:
            report.unexpected.append(key)
        elif ours in chosen:
            if not torch.equal(chosen[ours], tensors[key]):
                report.unexpected.append(key)  # two different tensors for one of ours
        else:
            chosen[ours] = tensors[key]
            if ours != key:
                report.renamed.append((key, ours))
    report.sliced = layout.adapt(chosen, own)
    return chosen, report


def _fit(values: dict[str, Tensor], own: Mapping[str, Tensor], layout: Layout, report: LoadReport) -> dict[str, Tensor]:
    """Those values that have the model's shapes; completes the report."""
    chosen = {}
    for key, value in values.items():
        if key not in own:
            continue  # made on the way, for a model of another kind
        if value.shape == own[key].shape:
            chosen[key] = value
        else:
            report.mismatched.append((key, tuple(value.shape), tuple(own[key].shape)))
    report.matched = list(chosen)
    found = {id(own[k]) for k in chosen} | {id(own[k]) for k, _, _ in report.mismatched}
    lacking = (k for k, v in own.items() if k.startswith(layout.scope) and id(v) not in found)
    report.missing = [k for k in lacking if not k.endswith("num_batches_tracked")]  # a count, not a weight
    return chosen


def _place(key: str, own: Mapping[str, Tensor]) -> str:
    """A query source that wraps another keeps its names under ``queries.source``; files of the bare host fit too."""
    inner = key.removeprefix("queries.")
    if key not in own and inner != key:
        for other in (f"queries.source.{inner}", f"queries.{inner.removeprefix('source.')}"):
            if other in own:
                return other
    return key
