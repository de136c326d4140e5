"""Whether a training can go on from a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from detrex_ext.checkpoint.run_folder import Saved
from detrex_ext.errors import UserError

logger = logging.getLogger(__name__)


def check_saved(saved: Saved, now: Mapping[str, Any]) -> None:
    """Holds a checkpoint against the training that would go on from it; another precision is told of.

    Args:
        saved: the checkpoint.
        now: what this training writes into its own.

    Raises:
        UserError: it is of other classes, or of weights alone.
    """
    then, names = saved.data.get("class_names"), now["class_names"]
    if then is not None and list(then) != names:
        raise UserError(f"--resume: {saved.path} was trained on classes {list(then)}, the data has {names}")
    precision = saved.data.get("precision", now["precision"])
    if precision != now["precision"]:
        logger.warning("resume: precision %s -> %s", precision, now["precision"])
    if "trainer" not in saved.data:
        raise UserError(
            f"--resume: {saved.path} holds weights alone, no training to go on with\n"
            f"  start from its weights: train.init_checkpoint={saved.path}, in a new train.output_dir"
        )
