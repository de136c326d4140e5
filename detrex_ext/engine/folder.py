"""The output folder of a run: whose it is, and what of it a new start or a resume takes away."""

from __future__ import annotations

import os
from pathlib import Path

from detrex_ext.errors import UserError
from detrex_ext.runtime import comm, truncate_metrics

_RESULTS = ("last_checkpoint", "metrics.json", "evaluation.json", "model_*.pth", "events.out.tfevents.*")
METRICS = "metrics.json"


def holds_a_run(folder: str | os.PathLike) -> list[str]:
    """Names of checkpoints and metrics in a folder: what another run would write over."""
    found = [p for pattern in _RESULTS[:4] for p in Path(folder).glob(pattern)]
    return sorted(p.name for p in found if p.stat().st_size)


def claim(folder: str, resume: bool, overwrite: bool) -> None:
    """Refuses a folder that holds another run; clears it under ``overwrite``.

    Raises:
        UserError: checkpoints or metrics are there, and neither ``--resume`` nor ``train.overwrite=true``; nothing
            was touched.
    """
    found = comm.all_gather(holds_a_run(folder))[0]
    if resume or not found:
        return
    if not overwrite:
        shown = ", ".join(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")
        raise UserError(
            f"train.output_dir={folder} holds another run: {shown}\n"
            "  go on with it: --resume    start over in it: train.overwrite=true    or name another train.output_dir"
        )
    if comm.is_main_process():
        for pattern in _RESULTS:
            for path in Path(folder).glob(pattern):
                path.unlink()
    comm.synchronize()


def rewind(folder: str, start_iter: int) -> None:
    """Takes out of ``metrics.json`` what comes after the checkpoint that training goes on from."""
    if comm.is_main_process():
        truncate_metrics(os.path.join(folder, METRICS), start_iter - 1)
    comm.synchronize()
