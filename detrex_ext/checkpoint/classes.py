"""Weights of one list of classes into a model of another: rows follow their class's name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .layouts import Sliced

_HEAD = re.compile(r"(?:^|\.)class_embed\.(?:(\d+)\.)?(?:(\d+)\.)?(?:weight|bias)$")
_LABELS = re.compile(r"(?:^|\.)label_enc\.weight$")


def rows_by_name(state: dict[str, Tensor], model: nn.Module, then: Sequence[str], now: Sequence[str]) -> list[Sliced]:
    """Puts rows of class heads and label embeddings where the model's classes of the same name are, in place.

    Rows of classes that the file does not know stay as the model has them. A row behind the classes ("no object") is
    kept, and so is the order of rows of a head that knows objects only.

    Args:
        state: tensors by the model's names.
        model: of classes ``now``; its values are used, and not changed.
        then: class names of the file, by index.
        now: class names of the model, by index.

    Returns:
        what was done; nothing where the lists are the same.
    """
    places = {_plain(name): row for row, name in reversed(list(enumerate(then)))}
    pairs = [(row, places[_plain(name)]) for row, name in enumerate(now) if _plain(name) in places]
    own, only_objects = model.state_dict(), _heads_of_objects(model)
    done = []
    for key, width in {**dict.fromkeys(class_tensors(own), 1), **dict.fromkeys(box_tensors(model), 4)}.items():
        if list(then) == list(now) or key not in state or state[key].shape[1:] != own[key].shape[1:]:
            continue
        behind = len(own[key]) - width * len(now)
        if behind not in (0, 1) or len(state[key]) - width * len(then) != behind:
            continue
        rows, known = pairs, f"{len(pairs)} by class name"
        if key.startswith(only_objects):
            rows = [(row, row) for row in range(min(len(then), len(now)))]
            known = f"the first {len(rows)}, for row 0 is the objectness"
        rows = [*rows, *[(len(now), len(then))] * behind]
        rows = [(width * row + i, width * source + i) for row, source in rows for i in range(width)]
        value = own[key].detach().clone().to(state[key].dtype)
        to, source = torch.tensor(rows, dtype=torch.long).reshape(-1, 2).unbind(1)
        value[to] = state[key][source].to(value.device)
        done.append(Sliced(key, len(state[key]), len(value), f"{known}, {len(own[key]) - len(rows)} as before"))
        state[key] = value
    return done


def class_tensors(own: Mapping[str, Tensor]) -> list[str]:
    """Keys of the tensors with a row per class: label embeddings and the last layers of class heads."""
    last: dict[str, int] = {}
    heads = {key: found for key in own if (found := _HEAD.search(key))}
    for key, found in heads.items():
        if found[2] is not None:  # a stack of layers per stage
            stage = key[: found.start(2)]
            last[stage] = max(last.get(stage, 0), int(found[2]))
    ends = [key for key, m in heads.items() if m[2] is None or last[key[: m.start(2)]] == int(m[2])]
    return [*ends, *(key for key in own if _LABELS.search(key))]


def box_tensors(model: nn.Module) -> list[str]:
    """Keys of the tensors with four rows per class: last layers of box heads that move a region for each class."""
    heads = [name for name, part in model.named_modules() if getattr(part, "class_agnostic", None) is False]
    last = {name: len(model.get_submodule(f"{name}.bbox_embed.layers")) - 1 for name in heads}
    return [f"{name}.bbox_embed.layers.{i}.{kind}" for name, i in last.items() for kind in ("weight", "bias")]


def _heads_of_objects(model: nn.Module) -> tuple[str, ...]:
    """Prefixes of the class heads of two-stage sources that score by objectness."""
    found = (name for name, part in model.named_modules() if getattr(part, "score", None) == "objectness")
    return tuple(f"{name}.class_embed." for name in found)


def _plain(name: str) -> str:
    return " ".join(str(name).lower().replace("_", " ").split())
