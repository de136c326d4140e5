"""What the `analyze` verbs ask for: a run, a checkpoint or a config, weights, validation data, and where to write."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from detrex_ext.errors import UserError

from . import data_folder
from .arguments import names
from .outputs import in_run, make_folder

if TYPE_CHECKING:
    from omegaconf import DictConfig

WEIGHTS = "train.init_checkpoint"


def add_config(parser: argparse.ArgumentParser, *positional: str, json: str | None = None) -> None:
    """Adds the grammar of all verbs: what they are about, overrides, overlays, and where a JSON goes.

    Args:
        parser: of the verb.
        positional: what comes before the overrides, the run or config first.
        json: argparse's ``nargs`` of ``--json``.
    """
    parser.usage = f"%(prog)s {' '.join(positional)} [key=value ...] [options]"
    parser.set_defaults(positional=positional)
    add = parser.add_argument
    add("words", nargs="*", metavar=positional[0], help="run folder, checkpoint, config file or short name")
    add("--overlay", action="extend", type=names, default=[], metavar="A,B", help="overlays, applied in this order")
    add("--json", nargs=json, const=json and "", metavar="FILE", help="write the JSON there; - for standard output")
    add("--trust", action="store_true", help="build models of unknown packages named in a run or checkpoint")
    add("--config-file", metavar="F", help=argparse.SUPPRESS)


def add_run(parser: argparse.ArgumentParser, name: str, *positional: str) -> None:
    """Adds ``add_config``'s arguments, and those that say which weights, and where ``name`` + ".json" goes."""
    add_config(parser, "RUN", *positional)
    add = parser.add_argument
    add("--no-average", action="store_true", help="the trained weights, also where there are averaged ones")
    add("--output", metavar="DIR", help=f"folder to write to (default: {name}/ in the run, or in train.output_dir)")


def settle(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Tells the words apart: ``args.run`` is what the verb is about, ``args.opts`` are the overrides.

    Spellings of before are taken, each with a line that says the new one.
    """
    words, count = args.words, len(args.positional)
    given = args.config_file is not None
    if args.what == "model" and args.json not in (None, "-"):
        follows = args.json  # where the flag stood alone, as it did before, this is what came after it
        if not follows or "=" in follows or not (words or given):
            words, args.json = [*words, *([follows] if follows else [])], "-"
            print("analyze model: --json without a file is now --json -", file=sys.stderr)
    if given:
        told = f"--config-file {args.config_file} is now: analyze {args.what} {args.config_file}"
        if count > 1 and words:  # there it was the config of a checkpoint
            words = [args.config_file, *words[1:], f"{WEIGHTS}={words[0]}"]
            told += f" {words[1]} {words[-1]}" if len(words) > 2 else ""
        else:
            words = [args.config_file, *words]
        print(told, file=sys.stderr)
    if len(words) < count or any("=" in word and not os.path.exists(word) for word in words[:count]):
        parser.error(f"analyze {args.what} needs {' and '.join(args.positional)} before the overrides")
    args.run, args.about, args.opts = words[0], words[1:count], words[count:]


def config_of(args: argparse.Namespace) -> DictConfig:
    """The config that the arguments say.

    Raises:
        UserError: there is none, or an overlay or override does not fit it.
    """
    from detrex_ext.checkpoint import RunFolder, read_checkpoint
    from detrex_ext.config import laid_over, load_config
    from detrex_ext.inference import config_in, for_evaluation

    overrides = [*args.opts, *(["++train.model_ema.average=false"] if getattr(args, "no_average", False) else [])]
    folder = os.path.isdir(args.run) and RunFolder(args.run).config.is_file()
    if not (folder or _is_checkpoint(args)):
        return load_config(args.run, args.overlay, overrides)
    cfg = config_in({} if folder else read_checkpoint(args.run), args.run, args.trust)
    return laid_over(cfg if args.trust else for_evaluation(cfg, args.run), args.overlay, overrides)


def output_of(cfg: DictConfig, args: argparse.Namespace, name: str) -> Path:
    """The folder for what is found, made now: ``--output``, else ``name`` in the run folder or ``train.output_dir``.

    The log of the evaluation goes the same way: ``train.output_dir`` is set to where it belongs.

    Raises:
        UserError: it cannot be written to.
    """
    run = os.path.dirname(args.run) or "." if _is_checkpoint(args) else args.run
    if args.output or os.path.isdir(run):  # a run folder may have been moved since it was written
        cfg.train.output_dir = args.output or run
    return make_folder(args.output or in_run(cfg.train.output_dir, name))


def take_data(cfg: DictConfig, args: argparse.Namespace, train: bool = False) -> None:
    """Sets the validation data, in place, to that of ``--data``, where it is given; see :mod:`.data_folder`.

    Args:
        cfg: of the run.
        args: of the verb; ``--output`` is a folder, or with ``train`` a file.
        train: the training data is needed too.
    """
    run = os.path.dirname(args.run) or "." if _is_checkpoint(args) else args.run
    folder = run if os.path.isdir(run) else ""
    data_folder.use(cfg, args, (not train and args.output) or folder or cfg.train.output_dir, folder, train)


def truth_of(cfg: DictConfig) -> str:
    """The annotation file of the validation data.

    Raises:
        UserError: the config names none.
    """
    from omegaconf import OmegaConf

    keys = ("dataloader.evaluator.json", "dataset.val_json")
    truth = next((found for found in (OmegaConf.select(cfg, key) for key in keys) if found), None)
    if truth is None:
        raise UserError("no validation data: set dataset.val_json, or name a folder by --data DIR")
    return truth


def weights_of(stated: str, args: argparse.Namespace) -> str:
    """The checkpoint: that of the run, unless an override names one, as a config may name what it started from.

    Raises:
        UserError: there is none.
    """
    from detrex_ext.checkpoint import find_weights

    if is_run(args):
        return find_weights(args.run).path
    if _is_checkpoint(args) and not _overridden(args):
        return args.run
    if not stated:
        raise UserError("which weights? name them by train.init_checkpoint=PATH, or name a run folder or a checkpoint")
    return stated


def checkpoints_of(cfg: DictConfig, args: argparse.Namespace) -> list[tuple[str, int | None]]:
    """(path, steps made) of all checkpoints of a run folder by age; else the one that the config names."""
    from detrex_ext.checkpoint import RunFolder

    if not is_run(args):
        return [(weights_of(cfg.train.init_checkpoint, args), None)]
    found = RunFolder(args.run).checkpoints()
    return [(str(path), iteration + 1) for iteration, path in found] or [(weights_of("", args), None)]


def label_of(args: argparse.Namespace, checkpoint: str) -> str:
    """The name of a run in a drawing: the folder that the checkpoint is of, with its parent."""
    return "/".join(Path(args.run if is_run(args) else checkpoint).resolve().parts[-2:])


def _is_checkpoint(args: argparse.Namespace) -> bool:
    from detrex_ext.checkpoint import names_weights

    return names_weights(args.run)


def is_run(args: argparse.Namespace) -> bool:
    """Whether the weights are those of a run folder: no override names others."""
    return os.path.isdir(args.run) and not _overridden(args)


def _overridden(args: argparse.Namespace) -> bool:
    return any(opt.lstrip("+").startswith(f"{WEIGHTS}=") for opt in args.opts)
