"""Where the weights are in a file that others wrote, and what their training put before the names."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detrex_ext.errors import UserError

from .stand_ins import NotRead

logger = logging.getLogger(__name__)
TRAINED_IN = (
    *("model", "state_dict", "model_state", "model_state_dict", "net", "network", "weights", "params", "module"),
    *("checkpoint", "blobs"),
)
AVERAGED = (
    *("ema_state", "ema_model", "model_ema", "state_dict_ema", "ema", "ema_state_dict", "model_ema_state_dict"),
    *("params_ema", "ema_params", "ema_weights"),
)
"""What projects call averaged weights."""
_DEPTH, _SHOWN = 4, 8
_OURS = {"model": "model", "ema_state": "ema_state"}
# of torch.compile, DeepSpeed, FSDP and activation checkpointing: anywhere in a name, where a part was wrapped
_INNER = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_forward_module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# of DDP, Lightning and the like: before the names only, for a part may be called so
_LEADING = re.compile(r"^(?:(?:module|model)\.)+")


class Contents(dict[str, Any]):
    """The contents of a checkpoint by our names.

    Attributes:
        places: for ``model`` and ``ema_state`` where the file has them, such as ``ema.module``.
    """

    places: dict[str, str]

    @property
    def foreign(self) -> bool:
        """Whether weights are elsewhere than our files have them."""
        return not self.places or bool(self.places.items() - _OURS.items())


def by_our_names(data: dict[Any, Any], path: str) -> Contents:
    """Trained weights as ``model`` and averaged ones as ``ema_state``, wherever they are; all else as it is.

    A file without known containers is a state dict itself; one of averaged weights alone has them as both. A line in
    the log says what was found where names are not ours. mmdetection's ``meta`` gives ``class_names``.
    """
    found = {part: _first(data, names) for part, names in (("model", TRAINED_IN), ("ema_state", AVERAGED))}
    found = {part: place for part, place in found.items() if place is not None}
    places = {part: place for part, (place, _) in found.items()}
    if not found:
        whole = Contents(data if isinstance(data.get("model"), dict) else {"model": data})
        whole.places = {}
        return whole
    out = Contents({k: v for k, v in data.items() if k not in {place.split(".")[0] for place in places.values()}})
    out |= {part: state for part, (_, state) in found.items()}
    if "model" not in out:
        own = {k: v for k, v in data.items() if is_tensor(v)}
        out["model"] = data if own else out["ema_state"]
        places["model"] = "the file itself" if own else places["ema_state"]
    out.places = places
    if out.foreign and not isinstance(out.get("class_names", []), list | tuple):
        del out["class_names"]  # what others call so may be anything
    meta = data.get("meta")
    classes = meta.get("CLASSES") if isinstance(meta, dict) else None
    if isinstance(classes, list | tuple) and classes and "class_names" not in out:
        out["class_names"] = list(classes)
    if out.foreign:
        logger.info("%s: %s", path, found_in(out))
    return out


def found_in(data: Mapping[str, Any]) -> str:
    """In words, where a file has its weights."""
    places = getattr(data, "places", _OURS)
    if not places:
        return f"a state dict, in none of {', '.join((*TRAINED_IN, *AVERAGED))}"
    if places.get("model") == places.get("ema_state"):
        return f"averaged weights alone, in '{places['model']}'"
    averaged = f", averaged weights in '{places['ema_state']}'" if "ema_state" in places else ""
    return f"trained weights in '{places['model']}'{averaged}"


def _first(data: Mapping[Any, Any], names: tuple[str, ...], depth: int = _DEPTH) -> tuple[str, dict] | None:
    """Path and contents of the first of ``names`` that holds tensors, or a container that does."""
    for name in names:
        value = data.get(name)
        if not isinstance(value, dict) or not depth:
            continue
        if any(map(is_tensor, value.values())):
            return name, value
        if inner := _first(value, (*TRAINED_IN, *AVERAGED), depth - 1):
            return f"{name}.{inner[0]}", inner[1]
    return None


def is_tensor(value: Any, meta: bool = False) -> bool:
    """Whether it is an array of numbers that can be a weight."""
    if isinstance(value, Tensor):
        return value.layout is torch.strided and not value.is_quantized and (meta or not value.is_meta)
    return isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "fiub" and value.dtype.itemsize <= 8


def as_tensors(state: Mapping[Any, Any], name: str, meta: bool = False) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a state dict by name, and what else it holds, in words.

    Args:
        state: by name.
        name: what messages call it.
        meta: tensors without values are taken, as for a model that has none either.

    Raises:
        UserError: it holds no tensor.
    """
    out, others = {}, []
    for key, value in state.items() if isinstance(state, Mapping) else ():
        if isinstance(key, str) and is_tensor(value, meta):
            array = isinstance(value, np.ndarray | np.generic)
            out[key] = torch.from_numpy(np.array(value)) if array else value
        else:
            kind = value.kind if isinstance(value, NotRead) else type(value).__name__
            others.append(f"{str(key)[:80]} ({kind})")
    if not out and state:
        more = f", ... ({len(others)})" if len(others) > _SHOWN else ""
        found = ", ".join(others[:_SHOWN]) + more if others else type(state).__name__
        raise UserError(
            f"checkpoint {name}: holds no tensors; found {found}\n"
            f"  looked for them there and in {', '.join((*TRAINED_IN, *AVERAGED))}, and one inside another"
        )
    return out, others


def spellings(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors under their names, and without the prefixes of wrapped models where they have any; by what goes.

    A name that would be another's stays as it is.
    """
    found = {"": dict(tensors)}
    inner = _without(tensors, _INNER, found)
    _without(inner, _LEADING, found)
    return found


def _without(tensors: Mapping[str, Tensor], pattern: re.Pattern, found: dict[str, dict]) -> Mapping[str, Tensor]:
    out, gone = {}, set()
    for key, value in tensors.items():
        bare = pattern.sub("", key)
        if bare == key or not bare or bare in tensors or bare in out:
            out[key] = value
        else:
            out[bare] = value
            gone |= {match[0] for match in pattern.finditer(key)}
    if gone:
        before = [name for name in found if name]
        found[", ".join([*before[-1:], *sorted(gone)])] = out
    return out
