"""What may be made of a config that comes with a checkpoint: see ``docs/security.md``.

A config can name any function, and have it called with any arguments. One from a checkpoint or run folder of unknown
origin must not be able to run code, so its names are read without importing them and checked before anything is made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .config.yaml_text import NameOnly
from .errors import UserError
from .runtime.standalone.calls import locate, to_name

# Packages whose models and transforms a config may name.
_PACKAGES = (
    "detrex_ext.modeling.",
    "detrex_ext.layers.",
    "detrex_ext.data.transforms.",
    "detrex_ext.data.affine.",
    "detrex_ext.data.color.",
    "detectron2.modeling.",
    "detectron2.layers.",
    "detrex.modeling.",
    "detrex.layers.",
    "torch.nn.",
    "torchvision.models.",
    "torchvision.ops.",
)
# A module of another name is not even imported, and no __main__, which runs when it is.
_IMPORTED = re.compile(r"(?!.*__)(detrex_ext|detectron2|detrex|torchvision|torch\.nn)\.")
# What an evaluation reads its data by.
_DATA = tuple(f"detrex_ext.data.{n}" for n in ("build.build_test_loader", "coco.CocoDataset", "mapper.DetrMapper"))
# What only training makes; nothing of it is called by what evaluates or predicts.
_TRAINING = ("detrex_ext.strategies.", "detrex_ext.criterion.", "detrex_ext.matching.", "builtins.dict.")
_PLAIN = (str, int, float, bool, type(None), torch.dtype)
# A reference to another key, or an environment variable: what it gives cannot change with what is set later.
_REFERENCE = re.compile(r"\$\{(?:\.*[A-Za-z0-9_.\[\]-]+|oc\.env:[A-Za-z0-9_]+(?:,[^${}]*)?)\}")


def check_trusted(
    cfg: DictConfig,
    source: str,
    keys: Sequence[str] = ("model", "dataloader.test.mapper.augmentation"),
    plain: Sequence[str] = (),
) -> None:
    """Refuse a config that would call anything but parts of models and transforms of known packages.

    What only training makes (``model.rules``, ``model.strategies``) is not looked at.

    Args:
        cfg: as read from the file with :func:`known_object`.
        source: what the message calls it.
        keys: what will be made of it.
        plain: what must hold no calls at all.

    Raises:
        UserError: naming the first function that is not known, or a value that cannot be checked.
    """
    try:
        for key in keys:
            for name in _names(_at(cfg, key), skipped=("rules", "strategies") if key == "model" else ()):
                if not is_known(name):
                    raise _refused(source, f"call '{name}', no model part of detrex_ext, detrex, detectron2 or torch")
        for key in plain:
            for name in _names(OmegaConf.select(cfg, key), follow=False):
                raise _refused(source, f"call '{name}' under '{key}', where nothing is called")
    except (OmegaConfBaseException, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{source}: its config cannot be used: {reason}") from error
    except _Unclear as error:
        raise _refused(source, str(error)) from None


def drop_unknown_training(cfg: DictConfig) -> None:
    """Empties ``model.rules`` and ``model.strategies``, in place, where they name anything but this package's."""
    for key in ("model.rules", "model.strategies"):
        try:
            known = all(_of_training(name) for name in _names(_at(cfg, key)))
        except (OmegaConfBaseException, RecursionError, UserError, _Unclear):
            known = False
        if not known:
            OmegaConf.update(cfg, key, {}, merge=False)


def _of_training(name: str) -> bool:
    if name.partition(".")[0] not in ("detrex_ext", "builtins"):
        return False
    found = locate(name)
    where = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}."
    return where.startswith(_TRAINING) or is_known(name)


def is_known(name: str) -> bool:
    """Whether a name is that of a class of the known packages, or of what reads an evaluation's data.

    By the module that defines the object, not by the name alone, which may lead through a module to any other. Nothing
    outside the known packages is imported.

    Raises:
        UserError: a name in a known package that cannot be imported.
    """
    try:
        found = locate(name) if _IMPORTED.match(name) else None
    except Exception as error:
        raise UserError(f"the config names '{name}', which cannot be imported: {error}") from error
    module = f"{getattr(found, '__module__', '')}."
    whole = f"{module}{getattr(found, '__qualname__', '')}"
    return whole in _DATA or (isinstance(found, type) and module.startswith(_PACKAGES))


def known_object(name: str) -> Any:
    """What a config's text may mean by the name of a class: the class where it is known, else the name alone."""
    try:
        return locate(name) if is_known(name) else NameOnly(name)
    except UserError:
        return NameOnly(name)


class _Unclear(Exception):
    pass


def _refused(source: str, what: str) -> UserError:
    return UserError(
        f"{source}: its config would {what}\n"
        "  if you trust where the file comes from: load(..., trust=True), or --trust"
    )


def _names(node: Any, skipped: Sequence[str] = (), follow: bool = True) -> Iterator[str]:
    """Names of all functions that a node calls or hands over, also where references lead.

    Raises:
        _Unclear: a value whose meaning may change after it was looked at, or that is no plain value.
    """
    stack, seen = [node], {}
    while stack:
        item = stack.pop()
        if id(item) in seen:
            continue
        seen[id(item)] = item  # kept, so that no other object gets its id
        if isinstance(item, DictConfig | ListConfig):
            dictionary = isinstance(item, DictConfig)
            keys = [key for key in item.keys() if key not in skipped] if dictionary else range(len(item))
            for key in [] if item._is_none() or item._is_missing() else keys:
                child = item._get_node(key)
                if key == "_target_" and dictionary:
                    yield _called(child._value())
                elif not child._is_interpolation():
                    stack.append(child if isinstance(child, DictConfig | ListConfig) else child._value())
                elif follow:
                    stack.append(_followed(child))
            skipped = ()
        elif isinstance(item, NameOnly):
            yield item.name
        elif isinstance(item, dict | list | tuple):
            plain = list(item) if isinstance(item, tuple) else item
            stack.append(OmegaConf.create(plain, flags={"allow_objects": True}))
        elif isinstance(item, type):
            yield to_name(item)
        elif not isinstance(item, _PLAIN):
            raise _Unclear(f"use a value of type {type(item).__name__}")


def _called(target: Any) -> str:
    """The name under ``_target_``, which must be stated as such."""
    if isinstance(target, NameOnly):
        return target.name
    if isinstance(target, str) and "${" not in target:
        return target
    if isinstance(target, type):
        return to_name(target)
    raise _Unclear(f"call what stands under '_target_: {str(target)[:80]}', which is no name")


def _at(cfg: DictConfig, key: str) -> Any:
    """The node or value of a key; None where there is none."""
    node: Any = cfg
    for part in key.split("."):
        child = node._get_node(part) if isinstance(node, DictConfig) else None
        if child is None:
            return None
        node = _followed(child) if child._is_interpolation() else child
    return node if isinstance(node, DictConfig | ListConfig) else getattr(node, "_value", lambda: node)()


def _followed(child: Any) -> Any:
    """What a reference leads to."""
    text = str(child._value())
    if "\\$" in text or not all(_REFERENCE.fullmatch(part) for part in re.findall(r"\$\{[^}]*\}*", text)):
        raise _Unclear(f"use '{text[:80]}', whose value cannot be told beforehand")
    found = child._dereference_node()
    return found if isinstance(found, DictConfig | ListConfig) else found._value()
