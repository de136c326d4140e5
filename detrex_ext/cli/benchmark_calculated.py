"""`benchmark memory` and `benchmark scaling`: what is known of a training before it runs, by calculation.

For example::

    python -m detrex_ext benchmark memory --config-file dino_r50 --batch 2
    python -m detrex_ext benchmark memory --config-file dino_r50 dataset.train_json=train.json
    python -m detrex_ext benchmark memory --config-file dino_r50 --size 480x640 --device cuda
    python -m detrex_ext benchmark scaling --config-file dino_r50 --step-ms 180
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detrex_ext.errors import UserError

from .arguments import Parser, add_overlay, check_overrides
from .outputs import check_file

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from detrex_ext.benchmark.peak import Sizes

_HOSTS = ("dino_r50_4scale_12ep", "deformable_detr_r50_50ep", "detr_r50_300ep", "dab_detr_r50_50ep",
          "adamixer_r50_12ep")  # fmt: skip


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    parser = Parser(prog=f"python -m detrex_ext benchmark {name}", description=description)
    add = parser.add_argument
    add("--config-file", action="append", default=[], metavar="F", help="by path or short name; may be repeated "
        "(default: five published hosts)")  # fmt: skip
    add_overlay(parser)
    add("--size", default="800x1333", metavar="HxW", help="of the images (default 800x1333)")
    add("--batch", type=int, default=2, metavar="N", help="images of a GPU (default 2)")
    add("--json", metavar="FILE", help="write the rows; - for standard output alone")
    add("overrides", nargs="*", default=[], metavar="key=value", help="for every model")
    return parser


def memory(argv: Sequence[str]) -> int:
    """`benchmark memory`: returns 0.

    Raises:
        UserError: bad input, or a model whose memory depends on values.
    """
    parser = _parser("memory", "The peak of a training step on a GPU, and the largest batch that fits 24, 40 and 80 "
                     "GB, by calculation: nothing runs, and no GPU is needed.")  # fmt: skip
    add = parser.add_argument
    add("--dtype", choices=("bf16", "fp32"), default="bf16", help="bf16: autocast (default)")
    add("--objects", type=int, default=100, metavar="N", help="of each image (default 100); with dataset.train_json "
        "those of its most crowded images")  # fmt: skip
    add("--processes", type=int, default=1, metavar="N", help="more than 1: gradients lie in DDP's buckets too")
    add("--no-largest", action="store_true", help="the peak of --batch only, which is quicker")
    add("--device", default="", metavar="D", help="cuda: the step runs there too, beside what is calculated")
    args = _parsed(parser, argv)
    if args.objects < 0 or args.processes < 1:
        raise UserError(f"--objects {args.objects} --processes {args.processes}: expected 0 or more, and 1 or more")

    from detrex_ext.benchmark import calculated, largest, peak
    from detrex_ext.runtime.devices import usable_device

    device = usable_device(args.device, "--device") if args.device else None
    rows = []
    for name, cfg in _configs(args):
        sizes = _sizes(args, cfg)
        found = peak.peak(cfg, args.batch, sizes)
        row: dict[str, Any] = {"config": name, "batch": args.batch, **asdict(sizes), **asdict(found)}
        row["largest"] = {} if args.no_largest else dict(
            zip(largest.CARDS, largest.largest(cfg, sizes, tuple(largest.CARDS.values()))[1], strict=True))  # fmt: skip
        row["measured"] = None if device is None else peak.measured(cfg, args.batch, sizes, device)
        rows.append(row)
    _write(args, rows, calculated.memory_table(rows))
    return 0


def scaling(argv: Sequence[str]) -> int:
    """`benchmark scaling`: returns 0.

    Raises:
        UserError: bad input.
    """
    parser = _parser("scaling", "What a step of several GPUs sends, and how efficient it is expected to be, by the "
                     "model that detrex_ext/benchmark/scaling.py states.")  # fmt: skip
    add = parser.add_argument
    add("--gpus", type=_list(int), default=[8, 32, 64], metavar="N,M", help="of the job (default 8,32,64)")
    add("--gbits", type=_list(float), default=[25, 400], metavar="G,H", help="Gbit/s of a machine (default 25,400)")
    add("--per-machine", type=int, default=8, metavar="N", help="GPUs of a machine (default 8)")
    add("--tflops", type=float, default=60, metavar="T", help="that a GPU reaches, for the time of a step (default 60)")
    add("--step-ms", type=float, metavar="MS", help="measured time of a step on one GPU, instead of --tflops")
    args = _parsed(parser, argv)
    if min(*args.gpus, *args.gbits, args.per_machine, args.tflops, args.step_ms or 1) <= 0:
        raise UserError("--gpus, --gbits, --per-machine, --tflops and --step-ms must be more than 0")

    from detrex_ext.benchmark import calculated, scaling

    rows = []
    for name, cfg in _configs(args):
        work = scaling.work_of(cfg, args.batch, *args.hw, args.tflops * 1e12, args.step_ms and args.step_ms / 1e3)
        cap = cfg.train.ddp.get("bucket_cap_mb")
        for travels, each in (("fp32", 4), ("bf16", 2)):
            steps = [scaling.simulate(work, gpus, scaling.Network(gbits, args.per_machine), cap, each)
                     for gbits in args.gbits for gpus in args.gpus]  # fmt: skip
            rows.append({"config": name, "step_s": work.seconds, "travels": travels, "bytes": work.sent * each // 4,
                         "buckets": len(scaling.buckets(work.gradients, cap)), "steps": steps})  # fmt: skip
    _write(args, rows, calculated.scaling_table(rows))
    return 0


def _list(kind: type) -> Callable[[str], list]:
    def numbers(text: str) -> list:
        return [kind(word) for word in text.split(",")]

    return numbers


def _parsed(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    args = parser.parse_intermixed_args(argv)
    check_overrides(args.overrides)
    size = re.fullmatch(r"([0-9]{1,5})[xX]([0-9]{1,5})", args.size)
    if size is None or not min(map(int, size.groups())) or not 1 <= args.batch <= 4096:
        raise UserError(
            f"--size {args.size} --batch {args.batch}: expected HEIGHTxWIDTH in pixels, such as 800x1333, and 1 to 4096"
        )
    args.hw = int(size[1]), int(size[2])
    if args.json != "-":
        check_file(args.json, "--json")
    return args


def _configs(args: argparse.Namespace) -> list[tuple[str, DictConfig]]:
    from detrex_ext.benchmark.models import CLASSES
    from detrex_ext.config import load_config
    from detrex_ext.engine.setup import settle

    made = []
    for name in args.config_file or _HOSTS:
        cfg = load_config(name, tuple(args.overlay), tuple(args.overrides))
        settle(cfg)
        cfg.model.num_classes = cfg.model.num_classes or CLASSES
        made.append((name, cfg))
    return made


def _sizes(args: argparse.Namespace, cfg: DictConfig) -> Sizes:
    """Those of the flags, with the objects of the densest batch where the command names data."""
    from detrex_ext.benchmark.peak import Sizes, most_crowded

    sizes = Sizes(*args.hw, args.dtype, (args.objects,), args.processes)
    named = any(word.startswith("dataset.train_json=") for word in args.overrides) and cfg.dataset.train_json
    return replace(sizes, objects=most_crowded(cfg.dataset.train_json, args.batch)) if named else sizes


def _write(args: argparse.Namespace, rows: Sequence[dict[str, Any]], text: str) -> None:
    document = json.dumps(rows, indent=2)
    print(document if args.json == "-" else text, flush=True)
    if args.json and args.json != "-":
        try:
            Path(args.json).write_text(document + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"--json {args.json} cannot be written: {error}") from error
