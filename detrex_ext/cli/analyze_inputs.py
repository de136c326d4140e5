"""What every `analyze` verb that evaluates a checkpoint asks for: a config or run folder, weights, validation data."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from detrex_ext.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig


def add_config(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that say which model: ``--config-file``, ``--overlay`` and the overrides."""
    parser.add_argument("--config-file", required=True, metavar="F", help="config file, short name, or run folder")
    parser.add_argument("--overlay", default="", metavar="A,B", help="overlays to lay over the config, in order")
    overrides = "overrides, such as train.init_checkpoint=model_final.pth"
    parser.add_argument("opts", nargs="*", metavar="key=value", help=overrides)


def truth_of(cfg: DictConfig) -> str:
    """The annotation file of the validation data.

    Raises:
        UserError: the config names none.
    """
    from omegaconf import OmegaConf

    keys = ("dataloader.evaluator.json", "dataset.val_json")
    truth = next((found for found in (OmegaConf.select(cfg, key) for key in keys) if found), None)
    if truth is None:
        raise UserError("no validation data: set dataset.val_json")
    return truth


def is_run(args: argparse.Namespace) -> bool:
    """Whether the weights are those of a run folder: no override names others."""
    return os.path.isdir(args.config_file) and not any(opt.startswith("train.init_checkpoint=") for opt in args.opts)


def weights_of(stated: str, args: argparse.Namespace) -> str:
    """The checkpoint: that of a run folder, unless an override names one, as a config may name what it started from.

    Raises:
        UserError: there is none.
    """
    from detrex_ext.api import find_weights

    if is_run(args):
        return find_weights(args.config_file)
    if not stated:
        raise UserError("which weights? name them by train.init_checkpoint=PATH, or a run folder by --config-file")
    return stated
