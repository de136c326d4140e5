"""Sizes that the parts of a detector share, and what a person reads who changes one part alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from detrex_ext.errors import UserError

# what each part calls its width (C) and its number of levels (L); a part without them takes any
_NAMES = {
    "dim": {"neck": "out_channels", "encoder": "dim", "queries": "dim", "decoder": "dim"},
    "num_levels": {"neck": "num_levels", "encoder": "num_levels", "decoder": "num_levels"},
}


def require_classes(num_classes: int | None) -> None:
    """Says what to do where a model is built before its number of classes is known.

    Raises:
        UserError: it is None.
    """
    if num_classes is None:
        raise UserError(
            "model.num_classes is null: a training reads it from its data, a model built without data needs it\n"
            "  cfg.model.num_classes = 80 (COCO's), or model.num_classes=80 on the command line"
        )


def shared_size(size: str, stated: int | None, **parts: nn.Module | None) -> int | None:
    """A size that all parts have.

    Args:
        size: ``dim`` or ``num_levels``.
        stated: what the config says of the whole model; it gives way to parts that agree on something else.
        parts: by the name of the detector's argument; query sources are looked into.

    Returns:
        The size; None where nobody has it.

    Raises:
        UserError: the parts differ; names those that do, and the key for all.
    """
    found = dict(_found(_NAMES[size], parts))
    if len(set(found.values())) <= 1:
        return next(iter(found.values()), stated)
    if stated is None:
        stated = next(iter(found.values()))
    wrong = ", ".join(f"model.{key}={value}" for key, value in found.items() if value != stated)
    raise UserError(f"{wrong}, but model.{size}={stated}: set model.{size}, it is the one key for all parts")


def check_parts(**parts: Any) -> None:
    """Refuses what is no part of a model, and a neck for other maps than the backbone gives, as far as both tell.

    Raises:
        UserError: names the part, or the maps.
    """
    for name, part in parts.items():
        if part is None:  # set later, as where a detrex model keeps one of its own; null in a config is refused before
            continue
        if not (callable(part) if name.endswith("process") else isinstance(part, nn.Module)):
            raise UserError(f"model.{name}: expected a part of a model, found {type(part).__name__}")
    backbone, neck = parts["backbone"], parts["neck"]
    if not hasattr(backbone, "output_shape"):
        return
    given, names = backbone.output_shape(), getattr(neck, "in_features", ())
    found = {name: getattr(given.get(name), "channels", None) for name in names}
    wanted = dict(zip(names, getattr(neck, "in_channels", found.values()), strict=False))
    wrong = [name for name in names if name not in given or None is not found[name] != wanted[name]]
    if wrong:
        told = [", ".join(f"{name}: {number}" for name, number in maps.items()) for maps in (
            wanted, {name: shape.channels for name, shape in given.items()})]  # fmt: skip
        raise UserError(
            f"model.neck does not fit model.backbone at {', '.join(wrong)}: it takes maps of the channels {told[0]}, "
            f"the backbone gives {told[1]}\n  model.backbone.out_features and model.neck.in_channels must agree"
        )


def _found(names: dict[str, str], parts: dict[str, nn.Module | None]) -> Iterator[tuple[str, int]]:
    for part, attribute in names.items():
        key, module = part, parts[part]
        while module is not None:
            value = getattr(module, attribute, None)
            if isinstance(value, int):
                yield f"{key}.{attribute}", value
            key, module = f"{key}.source", getattr(module, "source", None) if part == "queries" else None
