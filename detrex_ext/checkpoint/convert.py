"""A file of one project's names into a file of another's, with or without a model to hold it against."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detrex_ext.errors import UserError

from .classes import class_tensors
from .coco import COCO_CATEGORIES
from .files import write_checkpoint
from .foreign import as_tensors, spellings
from .layouts import OURS, families, recognize, to_layout
from .load import guess, load_state, part_of, published_classes, rename
from .provenance import KEY as MADE_BY
from .provenance import made_by
from .report import LoadReport
from .soundness import check_no_nan
from .stages import keep_stages
from .threshold import KEY
from .weights import HOLDS, evaluated_by, find_weights

_PARTS = ("backbone.", "neck.", "encoder.", "queries.", "decoder.")


def convert(
    source: str | os.PathLike,
    target: str | os.PathLike,
    to: str = OURS.name,
    model: nn.Module | None = None,
    average: bool | None = None,
    extra: Mapping[str, Any] | None = None,
    stages: Sequence[int] | None = None,
) -> LoadReport:
    """Writes the weights of any known file under the names of ``to``.

    Args:
        source: path of the file, local or remote; or a run folder, whose newest checkpoint it is then.
        target: file to write, whole or not at all; never the source.
        to: ``detrex_ext``, or a family of :func:`to_layout`, such as ``detrex``.
        model: what the weights must fit, every tensor of it; without it names alone decide.
        average: True = the averaged (EMA) weights, False = the trained ones, None = as for
            :func:`~detrex_ext.checkpoint.weights.find_weights`.
        extra: further values of a file of ours.
        stages: decoder stages to keep, see :func:`~detrex_ext.checkpoint.stages.keep_stages`; needs the model.

    Raises:
        UserError: a file that cannot be read, is of no known kind or does not fit the model; a target that is the
            source or cannot be written.
    """
    if to not in (OURS.name, *families()):
        raise UserError(f"unknown checkpoint layout '{to}'; known: {', '.join((OURS.name, *families()))}")
    found = find_weights(source, average)
    name, data, tensors = found.path, found.data, found.state()
    _check_target(name, os.fspath(target))
    if model is None:
        state, report = by_our_names(tensors, name)
        check_no_nan(state, name)
    else:
        report = load_state(model, tensors, strict=True, name=name)
        # a file of a backbone alone becomes a file of a backbone alone
        state = {key: value for key, value in model.state_dict().items() if key.startswith(report.scope)}
        if stages is not None:
            state = keep_stages(state, model.decoder, stages)
    known = {**_known(data, state, report.layout), HOLDS: found.kind(), MADE_BY: data.get(MADE_BY) or made_by()}
    if KEY in data and found.part == evaluated_by(data):
        known[KEY] = data[KEY]
    write_checkpoint(_contents(state, to, {**known, **(extra or {})}), target)
    report.weights = str(found)
    return report


def _contents(state: Mapping[str, Tensor], to: str, known: Mapping[str, Any]) -> dict[str, Any]:
    if to == OURS.name:
        return {"model": {key: value.contiguous() for key, value in state.items()}, **known}
    return {"model": {key: value.contiguous() for key, value in to_layout(dict(state), to).items()}}


def _known(data: Mapping[str, Any], state: Mapping[str, Tensor], layout: str) -> dict[str, Any]:
    """Classes and config that the file holds; COCO's classes where it is a published one."""
    known = {key: data[key] for key in ("class_names", "category_ids", "config", "iteration") if key in data}
    if "class_names" not in known and published_classes(state, layout):
        known |= {"class_names": list(COCO_CATEGORIES.values()), "category_ids": list(COCO_CATEGORIES)}
    return known


def classes_of(data: Mapping[str, Any], source: str = "checkpoint") -> tuple[int | None, list[str]]:
    """How many object classes a checkpoint's model has, None where no head is known; and their names, [] where unknown.

    Args:
        data: contents of the file.
        source: its name, for messages.
    """
    tensors = _bare(part_of(data, "model", source), source)
    values, report = rename(tensors, {}, recognize(tensors), _assumed(tensors))
    names = _known(data, values, report.layout).get("class_names", [])
    heads = [key for key in class_tensors(values) if key.startswith("decoder.") and key.endswith(".bias")]
    no_object = "queries.query_embed.weight" in values  # DETR's heads have a row for it
    return len(values[heads[0]]) - no_object if heads else None, list(names)


def by_our_names(state: Mapping[str, Any], name: str = "state") -> tuple[dict[str, Tensor], LoadReport]:
    """Tensors of any known file by the names of the model that the file is of.

    Raises:
        UserError: no such model is known.
    """
    tensors = _bare(state, name)
    layout = recognize(tensors)
    values, report = rename(tensors, {}, layout, _assumed(tensors))
    _share_heads(values, tensors)
    report.matched = [key for key in values if key.startswith(_PARTS)]
    report.unexpected += [key for key in values if not key.startswith(_PARTS)]
    if report.unexpected or not report.matched:
        raise UserError(
            f"checkpoint {name}: it looks like {guess(report, tensors)}; {len(report.matched)} of its {len(tensors)} "
            "tensors have a name here where no model is given\n  --config-file F names the model to fit it to"
        )
    return values, report


def _bare(state: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    """The tensors without prefixes of wrapped models."""
    return list(spellings(as_tensors(state, name)[0]).values())[-1]


def _assumed(keys: Mapping[str, Tensor]) -> tuple[str, ...]:
    """A file with a label embedding is of a model with denoising around its two-stage source."""
    return ("queries.source.",) if any(key.endswith("label_enc.weight") for key in keys) else ("",)


def _share_heads(values: dict[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Heads that are all the same and that no decoder refines boxes with are one shared head, in place."""
    refines = any(key.startswith(("transformer.decoder.bbox_embed.", "decoder.bbox_embed.")) for key in tensors)
    for kind in () if refines else ("class_embed", "bbox_embed"):
        head = re.compile(rf"decoder\.{kind}\.([1-9]\d*)\.")
        first = {key: head.sub(f"decoder.{kind}.0.", key) for key in values if head.match(key)}
        if all(one in values and torch.equal(values[one], values[key]) for key, one in first.items()):
            for key in first:
                del values[key]


def _check_target(source: str, target: str) -> None:
    folder = os.path.dirname(os.path.abspath(target))
    if os.path.exists(source) and os.path.exists(target) and os.path.samefile(source, target):
        raise UserError(f"{target}: is the file to convert; name another one to write")
    if os.path.isdir(target) or not os.path.isdir(folder):
        found = "it is a folder, not a file" if os.path.isdir(target) else f"there is no folder {folder}"
        raise UserError(f"cannot write {target}: {found}\n  name a file in a folder that exists")
