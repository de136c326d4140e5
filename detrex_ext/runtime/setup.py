"""Command-line flags, and what every run does first: folders, logs, environment table, seeds."""

from __future__ import annotations

import argparse
import logging
import os
import platform
import random
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from tabulate import tabulate

from detrex_ext import runtime
from detrex_ext.errors import UserError
from detrex_ext.runtime import comm
from detrex_ext.runtime.logger import setup_logger

_log = logging.getLogger(__name__)


class _AnyOrderParser(argparse.ArgumentParser):
    """Flags and `key=value` overrides in any order."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> argparse.Namespace:
        return self.parse_intermixed_args(args, namespace)


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """detectron2's flags, in any order and between the overrides, and `--overlay A,B`.

    `args.opts` is the list of overrides, `args.overlay` the list of overlays.
    """
    parser = _AnyOrderParser(epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help="config by path or by short name")
    add("--resume", action="store_true", help="go on from the last checkpoint of train.output_dir")
    add("--eval-only", action="store_true", help="evaluate train.init_checkpoint (or the last one, with --resume)")
    add("--num-gpus", type=int, default=1, help="processes on this machine (with train.device=cpu too)")
    add("--num-machines", type=int, default=1, help="machines of the job")
    add("--machine-rank", type=int, default=0, help="rank of this machine, from 0")
    add("--dist-url", default="auto", help="tcp://HOST:PORT of machine 0; on one machine a free port is found")
    add("--overlay", action="extend", type=_names, default=[], metavar="A,B", help="overlays, applied in this order")
    add("opts", nargs="*", metavar="key=value", help="overrides of the config: key=value, +new.key=value")
    return parser


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def default_setup(cfg: Any, args: Any, save: bool = True) -> int:
    """Make the output folder, logs (`log.txt`, other ranks `log.txt.rank<r>`), `config.yaml`, seeds and backends.

    Args:
        cfg: `train.output_dir`, `train.seed` (negative: random), `train.cudnn_benchmark`, `train.float32_precision`.
        args: the parsed flags, or anything; what it lacks is not used.
        save: write `config.yaml`.

    Returns:
        The seed of the run, the same on all ranks; each rank's generators are seeded with it plus the rank.
    """
    output_dir = _get(cfg, "train.output_dir", "output_dir", "OUTPUT_DIR")
    rank = comm.get_rank()
    if rank == 0 and output_dir:
        try:
            os.makedirs(output_dir, exist_ok=True)
        except OSError as error:
            raise UserError(f"output_dir={output_dir}: this folder cannot be made: {error.strerror}") from error
    comm.synchronize()
    for name in ("fvcore", "detectron2", "detrex_ext"):
        setup_logger(output_dir or None, distributed_rank=rank, name=name)
    _log.info(f"Rank of current process: {rank}. World size: {comm.get_world_size()}")
    _log.info("Environment info:\n" + collect_env_info())
    _log.info(f"Command line arguments: {args}")
    config_file = getattr(args, "config_file", "")
    if config_file and os.path.isfile(config_file):
        with open(config_file, encoding="utf-8") as file:
            _log.info(f"Contents of args.config_file={config_file}:\n{file.read()}")
    if rank == 0 and output_dir and save:
        from detrex_ext.config import save_config

        path = os.path.join(output_dir, "config.yaml")
        save_config(cfg, path)
        _log.info(f"Full config saved to {path}")
    seed = _get(cfg, "train.seed", "seed", "SEED", default=-1)
    if seed is None or seed < 0:
        seed = comm.all_gather(int.from_bytes(os.urandom(4), "little") // 2)[0]
        _log.info(f"Using a generated random seed {seed}")
    seed_all_rng(seed + rank)
    if not getattr(args, "eval_only", False):
        torch.backends.cudnn.benchmark = bool(_get(cfg, "train.cudnn_benchmark", default=False))
    precision = _get(cfg, "train.float32_precision", default="")
    if precision:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = precision != "highest"
    return seed


def _get(cfg: Any, *keys: str, default: Any = None) -> Any:
    """The value of the first key that the config has."""
    cfg = cfg if OmegaConf.is_config(cfg) else OmegaConf.create(cfg)
    for key in keys:
        value = OmegaConf.select(cfg, key)
        if value is not None:
            return value
    return default


def seed_all_rng(seed: int | None = None) -> int:
    """Seed numpy, torch and random; None draws a seed and logs it.

    Returns:
        The seed.
    """
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "little") // 2
        _log.info(f"Using a generated random seed {seed}")
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    random.seed(seed)
    os.environ["PYTHONHASHSEED"] = str(seed)
    return seed


def collect_env_info() -> str:
    """A table of versions and devices."""
    from detrex_ext import __version__

    rows = [
        ("sys.platform", sys.platform),
        ("Python", platform.python_version()),
        ("detrex_ext", __version__),
        ("runtime", f"{runtime.name()} {runtime.version()}"),
        ("torch", f"{torch.__version__} @{os.path.dirname(torch.__file__)}"),
        ("numpy", np.__version__),
    ]
    for package in ("torchvision", "fvcore", "iopath", "omegaconf", "pycocotools", "PIL", "faster_coco_eval", "timm"):
        rows.append((package, _version_of(package)))
    rows.append(("CPU", f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()}"))
    if torch.cuda.is_available():
        rows += [(f"GPU {i}", torch.cuda.get_device_name(i)) for i in range(torch.cuda.device_count())]
        rows.append(("CUDA", f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"))
    else:
        rows.append(("GPU", "none that torch can use"))
    return tabulate(rows)


def _version_of(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version({"PIL": "pillow"}.get(package, package))
    except PackageNotFoundError:
        return "not installed"
