"""``python -m detrex_ext train``: train from a config, or evaluate with ``--eval-only``."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from detrex_ext.errors import UserError

from . import data_folder
from .arguments import check_overrides, default_argument_parser, is_run
from .outputs import show

if TYPE_CHECKING:
    from omegaconf import DictConfig

_LENGTHS = ("minutes", "epochs", "max_iter")  # what each is in place of comes after it
EPILOG = """\
examples:
  train on your own data (COCO, YOLO, Pascal VOC, exports of Label Studio, CVAT, Roboflow):
    python -m detrex_ext train --config-file small --data my/
  on COCO files: --config-file small dataset.train_json=train.json dataset.val_json=val.json
  go on with a run, evaluate it: --config-file output/run --resume, --config-file output/run --eval-only
  evaluate a checkpoint:        the first one with --eval-only train.init_checkpoint=model_final.pth
  a loss that was not finite:   --replay output/run/non_finite.pth
  several GPUs:                 --num-gpus 8, or torchrun --nproc-per-node=8 -m detrex_ext train ...
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; the exit code is 128 + its number where a signal stopped the training.

    Raises:
        UserError: bad input.
    """
    parser = default_argument_parser(EPILOG)
    parser.prog = "python -m detrex_ext train"
    data_folder.add_data(parser, "train on, or evaluate on")
    args = parser.parse_args(argv)
    if args.replay:
        return _replay(args)
    from torch.multiprocessing import ProcessExitedException

    from detrex_ext.config import Carried
    from detrex_ext.engine import launch
    from detrex_ext.engine.setup import check_batch, settle
    from detrex_ext.engine.watch import LIMIT

    # its files are run here and nowhere else, so that errors in it are told once, before any process is started
    cfg = _config(args)
    if not args.eval_only:
        settle(cfg)
        check_batch(cfg, args.num_gpus * args.num_machines)
    where = (args.num_gpus, args.num_machines, args.machine_rank, args.dist_url)
    try:
        how = {"device": str(cfg.train.device), "watchdog": float(cfg.train.get("watchdog", LIMIT))}
        launch(_work, *where, args=(Carried(cfg), args), **how)
    except ProcessExitedException as error:
        if error.exit_code <= 128:
            raise
        return error.exit_code  # stopped by a signal after a checkpoint, as its log says
    return 0


def _replay(args: argparse.Namespace) -> int:
    """``--replay``: exit code 1 where the step is not finite again."""
    from detrex_ext.config import load_config
    from detrex_ext.engine.replay import replay

    check_overrides(args.opts)
    if args.resume or args.eval_only or args.no_average or args.data is not None:
        raise UserError("--replay runs one step of a training: without --resume, --eval-only, --no-average, --data")
    if args.overlay and not args.config_file:
        raise UserError("--replay with --overlay: name the config that it is laid over, --config-file FILE")
    cfg = load_config(args.config_file, args.overlay, args.opts) if args.config_file else None
    return 0 if replay(args.replay, cfg, args.opts) else 1


def _config(args: argparse.Namespace) -> DictConfig:
    """The config; a run folder that is gone on with or evaluated is the one that was named."""
    from omegaconf import OmegaConf

    from detrex_ext.config import load_config

    _check(args)
    average = ["++train.model_ema.average=false"] if args.no_average else []
    cfg = load_config(args.config_file, args.overlay, [*args.opts, *average])
    _take_typed_length(cfg, args.opts)
    if args.data is None:
        _check_data(cfg, args)
    if (args.resume or args.eval_only) and is_run(args, "train.output_dir"):
        cfg.train.output_dir = args.config_file
    if args.eval_only and is_run(args, "train.init_checkpoint"):
        cfg.train.init_checkpoint = args.config_file
    folder = OmegaConf.select(cfg, "train.output_dir") or "."
    run = folder if args.resume or args.eval_only else ""
    data_folder.use(cfg, args, folder, run, train=not args.eval_only)
    return cfg


def _take_typed_length(cfg: DictConfig, opts: Sequence[str]) -> None:
    """A length that was typed counts before one of the config that would go first, as of a run by the clock."""
    from omegaconf import OmegaConf

    typed = [name for name in _LENGTHS if any(re.match(rf"\+*train\.{name}=", opt) for opt in opts)]
    for name in _LENGTHS[: _LENGTHS.index(typed[0])] if typed else ():
        if (before := OmegaConf.select(cfg, f"train.{name}")) is not None:
            cfg.train[name] = None
            if os.environ.get("RANK", "0") == "0":
                show(f"train.{typed[0]} is typed: train.{name}={before} of the config does not count")


def _check(args: argparse.Namespace) -> None:
    """Refuses what is written as if it were another command.

    Raises:
        UserError: says how it is written.
    """
    check_overrides(args.opts)
    words = [opt for opt in args.opts if "=" not in opt]
    folder = next((opt.partition("=")[2] for opt in args.opts if opt.startswith("train.output_dir=")), "")
    run = words[0] if words else folder if os.path.isfile(os.path.join(folder, "config.yaml")) else ""
    if run and not args.config_file:
        raise UserError(f"no config given; did you mean --config-file {run}?")
    if args.no_average and not args.eval_only:
        raise UserError("--no-average goes with --eval-only; in a training: train.model_ema.average=false")


def _check_data(cfg: DictConfig, args: argparse.Namespace) -> None:
    """Refuses to go on with a run, or to evaluate it, by a config that names no data where the run's own does."""
    from omegaconf import OmegaConf

    key = "dataset.val_json" if args.eval_only else "dataset.train_json"
    folder = OmegaConf.select(cfg, "train.output_dir") or ""
    own = os.path.isfile(os.path.join(folder, "config.yaml")) and not os.path.isdir(args.config_file)
    if (args.resume or args.eval_only) and own and OmegaConf.select(cfg, key) == "":
        flags = " ".join(flag for flag, on in (("--resume", args.resume), ("--eval-only", args.eval_only)) if on)
        raise UserError(
            f"{key} is empty\n  with the config and the data of the run in {folder}: --config-file {folder} {flags}"
        )


def _work(carried: Any, args: argparse.Namespace) -> None:
    """What each process does."""
    from detrex_ext import engine

    (engine.evaluate if args.eval_only else engine.train)(carried.cfg, args)
