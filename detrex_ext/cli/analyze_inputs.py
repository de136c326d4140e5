"""What every `analyze` verb that evaluates a checkpoint asks for: a config or run folder, weights, validation data."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from detrex_ext.errors import UserError

from .arguments import is_run
from .outputs import check_file, make_folder

if TYPE_CHECKING:
    from omegaconf import DictConfig

WEIGHTS = "train.init_checkpoint"


def add_common(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds the arguments that say which model, and where ``name`` + ".json" goes."""
    add = parser.add_argument
    add("--config-file", required=True, metavar="F", help="config file, short name, or run folder")
    add("--overlay", default="", metavar="A,B", help="overlays to lay over the config, in order")
    add("opts", nargs="*", metavar="key=value", help="overrides, such as train.init_checkpoint=model_final.pth")
    add("--no-average", action="store_true", help="the trained weights, also where there are averaged ones")
    add("--output", metavar="DIR", help=f"folder to write to (default: {name}/ in the run, or in train.output_dir)")
    add("--json", metavar="FILE", help=f"a copy of {name}.json")


def config_of(args: argparse.Namespace) -> DictConfig:
    """The config that these arguments say."""
    from detrex_ext.config import load_config

    more = ["++train.model_ema.average=false"] if getattr(args, "no_average", False) else []
    return load_config(args.config_file, [name for name in args.overlay.split(",") if name], [*args.opts, *more])


def output_of(cfg: DictConfig, args: argparse.Namespace, name: str) -> Path:
    """The folder for what is found, made now: ``--output``, else ``name`` in the run folder or ``train.output_dir``.

    The log of the evaluation goes the same way: ``train.output_dir`` is set to where it belongs.

    Raises:
        UserError: it cannot be written to, or the file of ``--json`` cannot.
    """
    check_file(args.json, "--json")
    if args.output or os.path.isdir(args.config_file):  # a run folder may have been moved since it was written
        cfg.train.output_dir = args.output or args.config_file
    return make_folder(args.output or os.path.join(cfg.train.output_dir, name))


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


def weights_of(stated: str, args: argparse.Namespace) -> str:
    """The checkpoint: that of a run folder, unless an override names one, as a config may name what it started from.

    Raises:
        UserError: there is none.
    """
    from detrex_ext.checkpoint import find_weights

    if is_run(args, WEIGHTS):
        return find_weights(args.config_file).path
    if not stated:
        raise UserError("which weights? name them by train.init_checkpoint=PATH, or a run folder by --config-file")
    return stated
