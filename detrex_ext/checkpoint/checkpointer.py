"""The checkpointer of a run folder: fvcore's, writing whole files."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import Any

import torch
from fvcore.common.checkpoint import Checkpointer as _FvcoreCheckpointer
from torch import nn

from detrex_ext.errors import UserError
from detrex_ext.runtime import PathManager, comm

from .contents import AVERAGE
from .files import read_checkpoint, remove_leftovers, write_checkpoint
from .foreign import as_tensors
from .load import load_state
from .provenance import KEY, made_by
from .run_folder import RunFolder, Saved
from .shards import whole
from .soundness import check_sound

logger = logging.getLogger(__name__)


class Checkpointer(_FvcoreCheckpointer):
    """Saves and loads a model with other stateful objects.

    Every rank calls ``save`` (a state may need collectives); rank 0 writes. A file appears whole or not at all,
    and so does ``last_checkpoint``.

    Args:
        model: the model; a DDP wrapper is removed.
        save_dir: run folder; "" disables saving.
        save_to_disk: whether this process writes; default: rank 0.
        extra: values put into every file (class names, config text).
        checkpointables: objects with ``state_dict`` and ``load_state_dict`` by key.

    Attributes:
        folder: what the run folder holds.
        extra: as given; read anew for each file.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_to_disk: bool | None = None,
        extra: dict[str, Any] | None = None,
        **checkpointables: Any,
    ) -> None:
        to_disk = comm.is_main_process() if save_to_disk is None else save_to_disk
        super().__init__(model, save_dir, save_to_disk=to_disk, **checkpointables)
        self.folder = RunFolder(save_dir)
        self.extra = dict(extra or {})
        self.path_manager = PathManager
        if save_dir and to_disk and os.path.isdir(save_dir):
            remove_leftovers(save_dir)

    def save(self, name: str, *, tag: bool = True, **kwargs: Any) -> None:
        """Writes ``<save_dir>/<name>.pth``.

        Args:
            name: file name without ending.
            tag: name it in ``last_checkpoint``; False for copies that a resume must not start from.
            kwargs: further values for the file.

        Raises:
            UserError: it cannot be written, as on a full disk.
        """
        if not self.save_dir:
            return
        data = {"model": self.model.state_dict()}
        data.update({key: obj.state_dict() for key, obj in self.checkpointables.items()})
        if any(hasattr(p, "full_tensor") for p in self.model.parameters()):
            data = whole(data)
        data.update(self.extra)
        data.update(kwargs)
        if not self.save_to_disk:
            return
        data[KEY] = made_by()
        path = os.path.join(self.save_dir, f"{name}.pth")
        logger.info("Saving checkpoint to %s", path)
        try:
            self._write(data, path)
            if tag:
                self.tag_last_checkpoint(f"{name}.pth")
        except OSError as error:
            raise UserError(
                f"{error.filename or path}: cannot be written: {error.strerror or error}\n"
                "  checkpoints of before are as they were: make room, then go on with --resume"
            ) from error

    def _write(self, data: dict[str, Any], path: str) -> None:
        if "://" not in path:
            return write_checkpoint(data, path)
        with self.path_manager.open(path, "wb") as file:  # no local file system: the handler decides what is atomic
            torch.save(data, file)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Names the newest file in ``last_checkpoint``, in one step."""
        if "://" in self.save_dir:
            return super().tag_last_checkpoint(last_filename_basename)
        self.folder.tag(last_filename_basename)

    def load(self, path: str, checkpointables: Iterable[str] | None = None) -> dict[str, Any]:
        """Loads model and checkpointables from a file written by ``save``; "" loads nothing.

        Returns:
            what else the file held.

        Raises:
            UserError: a file that cannot be read, or that is of another model.
        """
        if not path:
            logger.info("No checkpoint named: the model keeps its initial weights")
            return {}
        return self.apply(Saved(path, read_checkpoint(path, self.path_manager)), checkpointables)

    def resume(self) -> dict[str, Any]:
        """Loads everything from the folder's newest checkpoint.

        Returns:
            what the file held beside model and checkpointables; {} where the folder holds no checkpoint.

        Raises:
            UserError: there are checkpoints, and none can be read.
        """
        saved = self.folder.newest() if self.save_dir else None
        return {} if saved is None else self.apply(saved)

    def _check_average(self, average: Any, name: str) -> None:
        """Averages go into the model at every evaluation, where nobody looks at them again."""
        own = self.model.state_dict()
        tensors = {} if average is None else as_tensors(average, f"{name}: its '{AVERAGE}'")[0]
        check_sound({key: value for key, value in tensors.items() if key in own}, own, f"{name}: its '{AVERAGE}'")

    def apply(self, saved: Saved, checkpointables: Iterable[str] | None = None) -> dict[str, Any]:
        """Loads a checkpoint that was read already into model and checkpointables (None = all); raises as ``load``."""
        logger.info("Loading from %s", saved.path)
        data = dict(saved.data)
        load_state(self.model, data.pop("model"), strict=True, name=saved.path)
        self._check_average(data.get(AVERAGE), saved.path)
        for key in self.checkpointables if checkpointables is None else checkpointables:
            if key not in data:
                continue
            try:
                self.checkpointables[key].load_state_dict(data.pop(key))
            except (TypeError, ValueError, LookupError, AttributeError, RuntimeError, OverflowError) as error:
                reason = (str(error).splitlines() or [""])[0]
                raise UserError(
                    f"checkpoint {saved.path}: its '{key}' is not the state of this training: "
                    f"{type(error).__name__}: {reason}\n"
                    f"  its weights alone: train.init_checkpoint={saved.path}, in a new train.output_dir"
                ) from error
        return data
