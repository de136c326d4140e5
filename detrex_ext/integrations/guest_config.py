"""The config of a detrex model, made ready to be a part of one of ours."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from detrex_ext.config.upgrade import walk
from detrex_ext.errors import UserError
from detrex_ext.runtime import LazyConfig


def on_cpu(guest: Mapping[str, Any] | str | os.PathLike) -> DictConfig:
    """A copy of a config's model that builds without a GPU: only its weights are taken, and moved later."""
    if isinstance(guest, str | os.PathLike):
        guest = LazyConfig.load(os.fspath(guest))
    guest = guest["model"] if "_target_" not in guest and "model" in guest else guest
    if "_target_" not in guest:
        raise UserError(f"from_detrex: expected a detrex model or its config, found keys {', '.join(map(str, guest))}")
    guest = copy.deepcopy(guest) if isinstance(guest, DictConfig) else OmegaConf.create(dict(guest))
    with open_dict(guest):
        guest.device = "cpu"
    return guest


def below(guest: DictConfig) -> DictConfig:
    """The same, in place, to stand under ``model.guest``: references that a loaded config has to ``model`` follow."""
    for holder, key, child in list(walk(guest)):
        value = child._value()
        if isinstance(value, str) and "${model." in value:
            holder[key] = value.replace("${model.", "${model.guest.")
    return guest
