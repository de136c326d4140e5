"""What every run does first: its folder, its logs, the table of the environment, seeds and backends."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import random
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from tabulate import tabulate

from detrex_ext import __version__, runtime
from detrex_ext.checkpoint import RunFolder
from detrex_ext.config import save_config
from detrex_ext.errors import UserError
from detrex_ext.layers import cpu
from detrex_ext.runtime import comm, heap, machine

from .log import setup_logger

_log = logging.getLogger(__name__)


def default_setup(cfg: Any, args: Any) -> int:
    """As `begin`, and the config is written to the folder."""
    seed = begin(cfg, args)
    output_dir = _get(cfg, "train.output_dir")
    if comm.is_main_process() and output_dir:
        path = RunFolder(output_dir).config
        save_config(cfg, path)
        _log.info(f"Full config saved to {path}")
    return seed


def begin(cfg: Any, args: Any) -> int:
    """Make the output folder, logs (`log.txt`, other ranks `log.txt.rank<r>`), seeds and backends.

    Args:
        cfg: `train.output_dir` (in detectron2's older configs `OUTPUT_DIR`), `train.seed` (negative: random),
            `train.cudnn_benchmark`, `train.float32_precision`.
        args: the parsed flags, or anything; what it lacks is not used.

    Returns:
        The seed of the run, the same on all ranks; each rank's generators are seeded with it plus the rank.
    """
    machine.fit_threads(comm.get_local_size())
    kept = heap.keep_freed()
    output_dir = _get(cfg, "train.output_dir") or _get(cfg, "OUTPUT_DIR")
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
    _log.info("memory that a step frees: %s", heap.told(kept))
    _log.info(f"Command line arguments: {args}", extra={"only": "file"})
    config_file = getattr(args, "config_file", "")
    if config_file and os.path.isfile(config_file):
        with open(config_file, encoding="utf-8") as file:
            text = f"Contents of args.config_file={config_file}:\n{file.read()}"
            _log.info(text, extra={"only": "file"})
    seed = _get(cfg, "train.seed", -1)
    if seed < 0:
        seed = comm.all_gather(int.from_bytes(os.urandom(4), "little") // 2)[0]
        _log.info(f"Using a generated random seed {seed}")
    seed_all_rng(seed + rank)
    if not getattr(args, "eval_only", False):
        torch.backends.cudnn.benchmark = bool(_get(cfg, "train.cudnn_benchmark", False))
    precision = _get(cfg, "train.float32_precision", "")
    if precision:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = precision != "highest"
    return seed


@contextlib.contextmanager
def logged_later() -> Iterator[None]:
    """Warnings of before :func:`begin`, which is called inside, go to standard error, and afterwards to the log."""
    logger, early = logging.getLogger("detrex_ext"), _Early()
    logger.addHandler(early)
    try:
        yield
    finally:
        begun = early not in logger.handlers  # the log's handlers have taken its place
        logger.removeHandler(early)
    for record in early.records if begun else ():
        record.only = "file"
        logger.handle(record)


class _Early(logging.Handler):
    """Keeps records, and shows them as they are shown where no log is set up."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Take one."""
        self.records.append(record)
        if len(logging.getLogger("detrex_ext").handlers) == 1 and logging.lastResort:
            logging.lastResort.handle(record)


def _get(cfg: Any, key: str, default: Any = None) -> Any:
    """The value of a key, or the default where the config has none or null."""
    value = OmegaConf.select(cfg, key) if OmegaConf.is_config(cfg) else cfg
    for part in () if OmegaConf.is_config(cfg) else key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return default if value is None else value


def seed_all_rng(seed: int) -> None:
    """Seed numpy, torch and random."""
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    random.seed(seed)


def collect_env_info() -> str:
    """A table of versions and devices."""
    rows = [
        ("sys.platform", sys.platform),
        ("Python", platform.python_version()),
        ("detrex_ext", __version__),
        ("runtime", f"{runtime.name()} {runtime.version()}"),
        ("torch", f"{torch.__version__} @{os.path.dirname(torch.__file__)}"),
        ("numpy", np.__version__),
    ]
    others = ("torchvision", "fvcore", "iopath", "omegaconf", "pycocotools", "pillow", "faster_coco_eval", "timm")
    rows += [(package, _version_of(package)) for package in others]
    rows.append(("CPU", f"{machine.processor()}, {machine.cores_text()}, {machine.instructions()}"))
    rows.append(("threads", f"{machine.threads_text()}; waiting: {machine.waiting_text()}"))
    rows.append(("CPU kernels", "on" if cpu.enabled() else f"off ({cpu.SWITCH}=0)"))
    if torch.cuda.is_available():
        rows += [(f"GPU {i}", torch.cuda.get_device_name(i)) for i in range(torch.cuda.device_count())]
        rows.append(("CUDA", f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"))
    else:
        rows.append(("GPU", "none that torch can use"))
    return tabulate(rows)


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
