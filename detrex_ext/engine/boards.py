"""Writers for TensorBoard and W&B: what they show of a run is what metrics.json holds, after a resume too."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import uuid
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from detrex_ext.checkpoint.files import write_json
from detrex_ext.errors import UserError
from detrex_ext.runtime import get_event_storage

from .events import Line, LineWriter

_log = logging.getLogger(__name__)


class TensorboardXWriter(LineWriter):
    """TensorBoard events under the same names; does nothing but say so once where tensorboard cannot.

    Args:
        log_dir: folder of the event files.
        window_size: iterations that medians are taken over.
        config: shown as text.
        kwargs: of torch's ``SummaryWriter``.
    """

    def __init__(self, log_dir: str, window_size: int = 20, config: str = "", **kwargs: Any) -> None:
        super().__init__(window_size)
        self._log_dir, self._config, self._kwargs = log_dir, config, kwargs
        self._again: Sequence[Line] = ()

    @cached_property
    def _writer(self) -> Any:
        """Torch's writer, made at first use; None where it cannot be."""
        try:
            from torch.utils.tensorboard import SummaryWriter

            writer = SummaryWriter(self._log_dir, **self._kwargs)
        except ImportError:
            _log.info("tensorboard is not installed: no event files (pip install 'detrex_ext[tensorboard]')")
            return None
        except UnicodeError:  # the folder's name in bytes that are no UTF-8, or in a locale that is not of it
            _log.info("tensorboard cannot write to a folder of this name: no event files")
            return None
        if self._config:
            text = "\n".join(f"    {line}" for line in self._config.splitlines())  # code, in Markdown
            writer.add_text("config", text, self._kwargs.get("purge_step", 0))
        return writer

    def begin(self, lines: Sequence[Line]) -> None:
        """Hide what older event files have of the last line and of after it; that line is written again."""
        # each line was on the disk before the next one was written to metrics.json
        self._again = lines[-1:]
        self._last_write = self._again[0]["iteration"] if lines else -1
        self._kwargs["purge_step"] = max(self._last_write, 0)

    def put(self, lines: Sequence[Line]) -> None:
        """Add the scalars, and all images, which leave the storage."""
        writer, storage = self._writer, get_event_storage()
        if not writer:
            return
        for line in (*self._again, *lines):
            for name, value in line.items():
                if name != "iteration":
                    writer.add_scalar(name, math.nan if value is None else value, line["iteration"])
        self._again = ()
        for name, image, iteration in storage._vis_data:
            writer.add_image(name, image, iteration)
        storage.clear_images()
        writer.flush()

    def close(self) -> None:
        """Close the event file, if one was opened."""
        writer = vars(self).get("_writer")
        if writer:
            writer.close()


class WandbWriter(LineWriter):
    """A run of Weights & Biases, in files unless ``WANDB_MODE=online``; images in the storage stay there.

    A resumed training goes on under the same id. Files of a start hold all lines from the first on, so that those of
    the newest start are the whole run; online, what the server has is not sent again.

    Args:
        id_file: where the id is kept; without it a new one is made.
        folder: where wandb makes its own folder ``wandb``.
        window_size: iterations that medians are taken over.
        config: nested values that the run is shown with.
        kwargs: of ``wandb.init``.

    Raises:
        UserError: wandb is not installed.
    """

    def __init__(
        self,
        id_file: str | os.PathLike,
        folder: str,
        window_size: int = 20,
        config: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        require_wandb()
        super().__init__(window_size)
        self._id_file, self._folder, self._config, self._kwargs = Path(id_file), folder, config, kwargs
        self._run: Any = None
        self._first = 0

    def begin(self, lines: Sequence[Line]) -> None:
        """Open the run, and log what it lacks of before."""
        import wandb

        mode = os.environ.get("WANDB_MODE", "offline")
        settings = wandb.Settings(console="off", silent=True)  # the log has everything, in a file of its own
        self._run = wandb.init(
            id=self._id(), resume="allow", mode=mode, dir=self._folder, config=self._config, settings=settings,
            **self._kwargs,
        )  # fmt: skip
        self._first = self._run.starting_step
        where = f"; wandb sync {self._run.dir.removesuffix('files')} sends it" if mode == "offline" else ""
        _log.info("W&B: run %s, %s%s", self._run.id, mode, where)
        self._last_write = max((line["iteration"] for line in lines), default=-1)
        self.put(lines)

    def put(self, lines: Sequence[Line]) -> None:
        """Log lines that the run does not have, and the images of the storage."""
        import wandb

        images: dict[int, dict[str, Any]] = {}
        for name, image, iteration in get_event_storage()._vis_data:
            images.setdefault(iteration, {})[name] = wandb.Image(image)
        for line in lines:
            step = line["iteration"]
            if step >= self._first:  # of an earlier start, which was killed: it is the same
                finite = {k: v for k, v in line.items() if v is not None and math.isfinite(v)}
                self._run.log({**finite, **images.get(step, {})}, step=step)

    def close(self) -> None:
        """End the run, and wandb's process."""
        import wandb

        run, self._run = self._run, None
        try:
            if run is not None:
                run.finish()
        finally:
            with contextlib.suppress(Exception):  # where it is dead, which would be told at the end of the program
                wandb.teardown()

    def _id(self) -> str:
        """The id of before, or a new one, which is kept."""
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            found = json.loads(self._id_file.read_text(encoding="utf-8"))["id"]
            if isinstance(found, str) and found.isalnum() and len(found) <= 64:
                return found
        made = uuid.uuid4().hex[:12]
        write_json({"id": made}, self._id_file)
        return made


def require_wandb() -> None:
    """Raises a ``UserError`` where wandb is absent."""
    with contextlib.suppress(ImportError):
        import wandb

        if hasattr(wandb, "init"):  # a folder of its files is a package of that name, too
            return
    raise UserError("train.writers.wandb=true: wandb is not installed\n  pip install 'detrex_ext[wandb]'")
