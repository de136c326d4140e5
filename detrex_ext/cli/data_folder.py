"""`--data DIR`: a folder of images and labels in any form, in place of COCO files."""

from __future__ import annotations

import argparse
import glob
import os
import re
from typing import TYPE_CHECKING

from detrex_ext.errors import UserError

from .outputs import show

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from detrex_ext.data.folders import Prepared

_KEYS = ("train_json", "train_images", "val_json", "val_images")
_SEED = re.compile(r"seed (-?\d{1,18}) \(--data-seed\)")


def add_data(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds ``--data`` and what goes with it.

    Args:
        parser: of the verb.
        what: is done with the folder.
    """
    add = parser.add_argument
    add("--data", metavar="DIR", help=f"{what}: a folder in COCO, YOLO or Pascal VOC form, or an export of Label "
        "Studio, CVAT or Roboflow; or its data.yaml")  # fmt: skip
    add("--data-images", metavar="DIR", help="where the images of --data are, if not in it")
    add("--data-seed", type=int, metavar="N", help="of the validation images that are chosen where --data has none "
        "(default: that of the run, else 0)")  # fmt: skip


def prepare(args: argparse.Namespace, out: str | os.PathLike, run: str = "", named: bool = True) -> Prepared:
    """The COCO files of ``--data``, written to a folder in ``out``; what was decided is told on one of the processes.

    Args:
        args: with what `add_data` adds.
        out: folder to write to.
        run: whose seed is taken where none is given; "" for none.
        named: as for `detrex_ext.data.folders.prepare`.

    Raises:
        UserError: the folder cannot be used.
    """
    from detrex_ext.data.folders import prepare

    seed = _seed_of(run) if args.data_seed is None else args.data_seed
    found = prepare(args.data, out, seed, args.data_images, named)
    if os.environ.get("RANK", "0") == "0":
        show(f"data: {args.data}\n  " + found.decisions.replace("\n", "\n  "))
    return found


def use(cfg: DictConfig, args: argparse.Namespace, out: str | os.PathLike, run: str = "", train: bool = False) -> None:
    """Sets the data of a config, in place, to that of ``--data``; without it, nothing is done.

    Args:
        cfg: with ``dataset``, by which its loaders name their data.
        args: with what `add_data` adds, and the overrides.
        out: folder to write to.
        run: as for `prepare`.
        train: the training data is needed too.

    Raises:
        UserError: the folder cannot be used, an override names other data, or the config does not look at ``dataset``.
    """
    from omegaconf import OmegaConf

    if not _is_given(args):
        return
    _check_overrides(args.opts)
    found = prepare(args, out, run)
    splits = ("train", "val") if train else ("val",)
    for split in splits:
        json, images = found.of(split)
        OmegaConf.update(cfg, f"dataset.{split}_json", json, force_add=True)
        OmegaConf.update(cfg, f"dataset.{split}_images", images, force_add=True)
        place = f"dataloader.{'train' if split == 'train' else 'test'}.dataset.json"
        if OmegaConf.select(cfg, place, throw_on_resolution_failure=False) != json:
            raise UserError(f"--data: the config does not read dataset.{split}_json, which it sets\n"
                            f"  {place}: expected ${{dataset.{split}_json}}, as in configs/small.py")  # fmt: skip
    if OmegaConf.select(cfg, "dataloader.evaluator.json", throw_on_resolution_failure=False) not in (None, json):
        OmegaConf.update(cfg, "dataloader.evaluator.json", json)


def _is_given(args: argparse.Namespace) -> bool:
    if args.data is None and (args.data_images is not None or args.data_seed is not None):
        raise UserError("--data-images and --data-seed go with --data DIR")
    return args.data is not None


def _check_overrides(opts: list[str]) -> None:
    named = [opt for opt in opts if re.match(rf"\+*dataset\.({'|'.join(_KEYS)})=", opt)]
    if named:
        raise UserError(f"--data names the data, and so does {named[0]}\n  leave one out")


def _seed_of(run: str) -> int:
    """The seed that a run's data were split by; 0 where it has none.

    Raises:
        UserError: the folder has data of several.
    """
    found = set()
    for path in glob.glob(os.path.join(glob.escape(run), "data-*", "decisions.txt")) if run else ():
        if os.path.isfile(path):
            with open(path, encoding="utf-8", errors="replace") as file:
                found |= {int(seed) for seed in _SEED.findall(file.read(1 << 20))}
    if len(found) > 1:
        seeds = ", ".join(map(str, sorted(found)))
        raise UserError(f"{run} holds data that were split by several seeds: {seeds}\n  name one: --data-seed N")
    return found.pop() if found else 0
