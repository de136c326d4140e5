"""How a training goes on from a checkpoint: whether it can, what differs, and which of two values holds."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch.distributed as dist
import yaml
from omegaconf import DictConfig, OmegaConf

from detrex_ext.checkpoint import RunFolder
from detrex_ext.checkpoint.run_folder import Saved
from detrex_ext.config import LazyConfig, get_config
from detrex_ext.config.keys import short
from detrex_ext.config.options import check_options
from detrex_ext.config.yaml_text import NameOnly
from detrex_ext.errors import UserError
from detrex_ext.runtime import comm

logger = logging.getLogger(__name__)
_MOST_LINES = 60
_ABSENT = NameOnly("not set")
# where a run is and what it is started with: no property of the training
_PLACES = ("output_dir", "init_checkpoint", "overwrite", "resume_override", "watchdog")
# of `train`, what `resume_override=checkpoint` leaves to the command: it is what a person resumes with
_COMMANDS = (*_PLACES, "device", "max_iter", "epochs", "minutes", "fast_dev_run", "log_period", "writers", "teacher")
_TAKEN = ("optimizer.", "lr_multiplier.", "train.", "dataloader.train.total_batch_size")
Difference = tuple[str, Any, Any]
"""Key, the value of the checkpoint, the value now."""


def newest(folder: RunFolder) -> Saved | None:
    """The checkpoint that all ranks go on from, which is rank 0's; None where its folder holds none.

    A rank that has another or none, as where machines share no file system, gets it from rank 0.

    Raises:
        UserError: on all ranks, where rank 0 can read none of those that are there.
    """
    own, failure = None, ""
    try:
        own = folder.newest()
    except UserError as error:
        failure = str(error)
    views = comm.all_gather((failure, _identity(own)))
    if views[0][0]:
        raise UserError(views[0][0])
    if any(view != views[0] for view in views):
        held = [own]
        dist.broadcast_object_list(held, src=0)
        own = held[0]
    return own


def _identity(saved: Saved | None) -> tuple | None:
    return saved and (os.path.basename(saved.path), str(saved.data.get("iteration")), os.path.getsize(saved.path))


def check_saved(saved: Saved, now: Mapping[str, Any]) -> None:
    """Holds a checkpoint against the training that would go on from it.

    Args:
        saved: the checkpoint.
        now: what this training writes into its own.

    Raises:
        UserError: it is of other classes, or of weights alone.
    """
    then, names = saved.data.get("class_names"), now["class_names"]
    if then is not None and list(then) != names:
        raise UserError(f"--resume: {saved.path} was trained on classes {list(then)}, the data has {names}")
    if "trainer" not in saved.data:
        raise UserError(
            f"--resume: {saved.path} holds weights alone, no training to go on with\n"
            f"  start from its weights: train.init_checkpoint={saved.path}, in a new train.output_dir"
        )


def take_saved(cfg: DictConfig, saved: Saved | None) -> list[Difference]:
    """What ``train.resume_override`` and an open seed take from a checkpoint, in place.

    With ``checkpoint`` these are plain values of the optimizer, its schedule, the batch and ``train``, but for the
    training's length, places and device; no call is taken.

    Returns:
        what was changed: key, the checkpoint's value, the config's.

    Raises:
        UserError: a value that the option cannot have.
    """
    if saved is None:
        return []
    if cfg.train.seed < 0:
        cfg.train.seed = saved.data.get("seed", cfg.train.seed)
    if cfg.train.resume_override != "checkpoint":
        return []
    taken = []
    for key, then, now in _config_differences(saved, cfg):
        section, _, rest = key.partition(".")
        if not key.startswith(_TAKEN) or (section == "train" and rest.split(".")[0] in _COMMANDS):
            continue
        plain = _is_plain(then) and _is_plain(now) and not key.endswith("_target_")
        if plain and OmegaConf.select(cfg, key) == now:  # not so where a name has a dot
            OmegaConf.update(cfg, key, then)
            taken.append((key, then, now))
    check_options(cfg)
    return taken


def tell(saved: Saved, cfg: DictConfig, now: Mapping[str, Any], start: int, taken: Sequence[Difference] = ()) -> None:
    """Logs in one block everything in which a training differs from that of the checkpoint that it goes on from.

    Args:
        saved: the checkpoint.
        cfg: of this training, filled in.
        now: what this training writes into its checkpoints.
        start: the iteration that it goes on with.
        taken: what was taken from the checkpoint.
    """
    ranks = saved.data.get("rng")
    ranks = ranks.get("ranks") if isinstance(ranks, Mapping) else None
    then = len(ranks) if isinstance(ranks, Sequence) else None
    found = [("processes", then, comm.get_world_size())] if then else []
    found.append(("precision", saved.data.get("precision", now["precision"]), now["precision"]))
    found = [(key, a, b) for key, a, b in found if a != b] + list(_config_differences(saved, cfg))
    lines = [f"  {key}: {_shown(a)} -> {_shown(b)}{_meaning(key, a, b, start)}" for key, a, b in found]
    if lines:
        other = "" if taken else " (train.resume_override=checkpoint: the saved values)"
        lines.insert(0, f"resume: what differs from {saved.path}; the config of the command holds{other}")
    if taken:
        lines.append(f"resume: taken from {saved.path} (train.resume_override=checkpoint), in place of the config's")
        lines += [f"  {key}: {_shown(b)} -> {_shown(a)}" for key, a, b in taken]
    if len(lines) > _MOST_LINES:
        lines[_MOST_LINES:] = [f"  and {len(lines) - _MOST_LINES} more"]
    if lines:
        logger.warning("\n".join(lines))


def _config_differences(saved: Saved, cfg: DictConfig) -> Iterator[Difference]:
    """Of the two configs, by key; none where the checkpoint holds no config that can be read."""
    text = saved.data.get("config")
    try:
        then = LazyConfig.loads(text, NameOnly) if isinstance(text, str) and text else None
        here = LazyConfig.loads(LazyConfig.dumps(cfg), NameOnly)
    except (yaml.YAMLError, RecursionError) as error:
        logger.warning("resume: the config in %s cannot be read: %s", saved.path, str(error).splitlines()[0])
        return
    if not isinstance(then, DictConfig) or not isinstance(here, DictConfig):
        return
    shipped = get_config("common/train.py").train
    planned = cfg.train.minutes is not None  # the length is of this machine and this hour
    for key, a, b in _differences(*(OmegaConf.to_container(c, resolve=False) for c in (then, here))):
        section, _, rest = key.partition(".")
        if section == "train" and (rest in _PLACES or (a is _ABSENT and OmegaConf.select(shipped, rest) == b)):
            continue
        if not planned or key not in ("train.max_iter", "lr_multiplier.warmup_iters"):
            yield key, a, b


def _differences(then: Any, now: Any, key: str = "") -> Iterator[Difference]:
    if isinstance(then, dict) and isinstance(now, dict):
        for name in [*now, *(name for name in then if name not in now)]:
            inner = f"{key}.{name}" if key else str(name)
            yield from _differences(then.get(name, _ABSENT), now.get(name, _ABSENT), inner)
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now) and any(map(_is_node, now)):
        for i, (a, b) in enumerate(zip(then, now, strict=True)):
            yield from _differences(a, b, f"{key}[{i}]")
    elif then != now:
        yield key, then, now


def _is_node(value: Any) -> bool:
    return isinstance(value, dict | list)


def _is_plain(value: Any) -> bool:
    """Whether it is a value that calls and refers to nothing."""
    return value is None or (isinstance(value, bool | int | float | str) and "${" not in str(value))


def _shown(value: Any) -> str:
    return value.name if isinstance(value, NameOnly) else short(value)


def _meaning(key: str, then: Any, now: Any, start: int) -> str:
    """What follows from a difference, where that is not plain."""
    if key == "dataloader.train.total_batch_size" and type(then) is type(now) is int:
        return f" (the data goes on at image {start * now} of its sequence, not at {start * then})"
    return {
        "processes": " (random numbers go on differently)",
        "train.max_iter": " (the schedule goes over the new length)",
        "train.seed": " (order and augmentation go on as of another training)",
    }.get(key, "")
