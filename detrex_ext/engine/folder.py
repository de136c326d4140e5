"""The output folder of a run: whose it is, and what of it a new start or a resume takes away."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from detrex_ext.errors import UserError
from detrex_ext.runtime import comm

from .writers import truncate_metrics

_RESULTS = ("last_checkpoint", "metrics.json", "evaluation.json", "model_*.pth", "events.out.tfevents.*")
METRICS = "metrics.json"


def named(folder: str | None) -> str:
    """The name of a run's folder; a `UserError` where it is empty."""
    if not folder:
        raise UserError("train.output_dir is empty: name the folder of the run")
    return folder


def holds_a_run(folder: str | os.PathLike) -> list[str]:
    """Names of checkpoints and metrics in a folder: what another run would write over."""
    found = [p for pattern in _RESULTS[:4] for p in Path(folder).glob(pattern)]
    return sorted(p.name for p in found if p.stat().st_size)


def claim(folder: str, resume: bool, overwrite: bool) -> dict[str, int] | None:
    """Refuses a folder that holds another run, unless it may be overwritten; touches nothing.

    Returns:
        Where a run is to be overwritten its logs and their sizes, for ``clear``; else None.

    Raises:
        UserError: checkpoints or metrics are there, and neither ``--resume`` nor ``train.overwrite=true``.
    """
    found, logs = comm.all_gather((holds_a_run(folder), _logs(folder)))[0]
    if resume or not found:
        return None
    if not overwrite:
        shown = ", ".join(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")
        raise UserError(
            f"train.output_dir={folder} holds another run: {shown}\n"
            "  go on with it: --resume    start over in it: train.overwrite=true    or name another train.output_dir"
        )
    return logs


def clear(folder: str, logs: Mapping[str, int] | None) -> None:
    """Takes an old run away, its lines of the logs too, when all that the new one needs has been read.

    Weights to start from may be the old run's own, and a mistyped path must not cost it.

    Args:
        folder: of both runs.
        logs: what ``claim`` returned; None = nothing to take away.
    """
    if logs is None:
        return
    comm.synchronize()  # no rank writes a line until all may go on
    if comm.is_main_process():
        for path in (path for pattern in _RESULTS for path in Path(folder).glob(pattern)):
            path.unlink()
        for path, size in logs.items():
            _cut_head(path, size)
    comm.synchronize()


def _logs(folder: str) -> dict[str, int]:
    return {str(p): p.stat().st_size for name in ("log.txt", "log.txt.rank*") for p in Path(folder).glob(name)}


def _cut_head(path: str, size: int) -> None:
    """Drops the first bytes of a log, in place: loggers that have it open append to it. A log of nobody now goes."""
    with open(path, "r+b") as file:
        file.seek(size)
        rest = file.read()
        file.seek(0)
        file.write(rest)
        file.truncate()
    if not rest:
        os.unlink(path)


def rewind(folder: str, start_iter: int) -> None:
    """Takes out of ``metrics.json`` what comes after the checkpoint that training goes on from."""
    if comm.is_main_process():
        truncate_metrics(os.path.join(folder, METRICS), start_iter - 1)
    comm.synchronize()
