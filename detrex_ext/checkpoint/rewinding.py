"""Going on from a checkpoint that is not the last of its folder: what came after it is set aside, nothing is deleted.

Whoever leaves a diverged training writes an earlier checkpoint into ``last_checkpoint``. What the abandoned part left
must not be taken for the newest afterwards, nor be in the way of what is written now.
"""

from __future__ import annotations

import contextlib
import filecmp
import itertools
import logging
import math
import os
from pathlib import Path

from .files import write_whole
from .run_folder import RunFolder, iteration_of

logger = logging.getLogger(__name__)
ASIDE = "set_aside"


def rewind(folder: RunFolder, source: Path | None, iteration: int) -> None:
    """Makes a folder's newest checkpoint the one that training goes on from; the metrics end there.

    Later checkpoints move to ``set_aside``, or ``set_aside_2`` and so on where others of their names are, the best one
    and a copy of the metrics with them. Killed at any moment, it leaves a folder that is gone on with from the same
    checkpoint, and this does the rest. A best one alone stays: its training was killed after the evaluation.

    Args:
        folder: of the run.
        source: the checkpoint in it, None = training begins anew.
        iteration: of the checkpoint (from 0), -1 where there is none.
    """
    later = [path for path in folder.files() if path != source and _at(path) > iteration]
    if (later or source is None) and folder.best.is_file() and _at(folder.best) > iteration:
        later.insert(0, folder.best)  # alone it would stay, if this was killed before it
    if (later or (source is None and folder.read_metrics())) and folder.wandb.is_file():
        later.insert(0, folder.wandb)  # what was logged there stays as it is; training goes on under a new id
    if source is not None and later:
        folder.tag(source)
    if later or (source is None and folder.read_metrics()):
        aside = _room(folder, later)
        aside.mkdir(exist_ok=True)
        names = [path.name for path in later]
        if folder.metrics.is_file():
            text = folder.metrics.read_bytes()
            write_whole(aside / folder.metrics.name, lambda file: file.write(text))
            names.append(f"a copy of {folder.metrics.name}")
        for path in later:
            os.replace(path, aside / path.name)
        done = f"training goes on after {iteration + 1} iterations" if source else "training begins anew"
        logger.warning("resume: %s; what was later is in %s: %s", done, aside, ", ".join(names))
    folder.truncate_metrics(iteration)


def prune(folder: RunFolder, keep: int, written: Path) -> None:
    """Deletes periodic checkpoints of before the one just written, until so many are left with it.

    What ``last_checkpoint`` names, what was just written and later ones stay.

    Args:
        folder: of the run.
        keep: number of files; 0 = all.
        written: the newest.
    """
    files, tagged = folder.periodic_files(), folder.tagged()
    older = files[: files.index(written)] if keep and written in files else []
    for path in older[: max(len(older) + 1 - keep, 0)]:
        if path != tagged:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()


def _at(path: Path) -> float:
    """The iteration of a checkpoint; one that states none comes after all others, as it would be written over."""
    stated = iteration_of(path)
    return math.inf if stated is None else stated


def _room(folder: RunFolder, later: list[Path]) -> Path:
    """The folder for them: the first in which nothing of theirs would be written over."""
    for number in itertools.count(1):
        aside = folder.path / (ASIDE if number == 1 else f"{ASIDE}_{number}")
        if not os.path.lexists(aside):
            return aside
        metrics = aside / folder.metrics.name
        taken = aside.is_symlink() or not aside.is_dir() or any(os.path.lexists(aside / path.name) for path in later)
        if not taken and (not os.path.lexists(metrics) or _same(metrics, folder.metrics)):
            return aside
    raise AssertionError


def _same(one: Path, other: Path) -> bool:
    return one.is_file() and other.is_file() and filecmp.cmp(one, other, shallow=False)
