"""The checkpointer of a run folder: fvcore's, writing whole files and reading the newest one that can be read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from fvcore.common.checkpoint import Checkpointer as _FvcoreCheckpointer
from torch import nn

from detrex_ext.errors import UserError
from detrex_ext.runtime import PathManager, comm

from .files import read_checkpoint, remove_leftovers, write_checkpoint, write_whole
from .load import load_state

_PERIODIC = re.compile(r"model_(\d{7,})\.pth$")


class Checkpointer(_FvcoreCheckpointer):
    """Saves and loads a model with other stateful objects.

    Every rank calls ``save`` (a state may need collectives); rank 0 writes. A file appears whole or not at all,
    and so does ``last_checkpoint``. ``resume`` takes the newest file that can be read and says what it skipped.

    Args:
        model: the model; a DDP wrapper is removed.
        save_dir: run folder; "" disables saving.
        save_to_disk: whether this process writes; default: rank 0.
        extra: values put into every file (class names, config text).
        checkpointables: objects with ``state_dict`` and ``load_state_dict`` by key.
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
        """
        if not self.save_dir:
            return
        data = {"model": self.model.state_dict()}
        data.update({key: obj.state_dict() for key, obj in self.checkpointables.items()})
        data.update(self.extra)
        data.update(kwargs)
        if not self.save_to_disk:
            return
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        if "://" in path:  # not a local file system: the handler decides what is atomic
            with self.path_manager.open(path, "wb") as file:
                torch.save(data, file)
        else:
            write_checkpoint(data, path)
        if tag:
            self.tag_last_checkpoint(f"{name}.pth")

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Names the newest file in ``last_checkpoint``, in one step."""
        path = os.path.join(self.save_dir, "last_checkpoint")
        if "://" in path:
            return super().tag_last_checkpoint(last_filename_basename)
        write_whole(path, lambda file: file.write(last_filename_basename.encode()))

    def has_checkpoint(self) -> bool:
        """Whether the folder holds anything to resume from, named by ``last_checkpoint`` or not."""
        return bool(self._candidates())

    def load(self, path: str, checkpointables: Iterable[str] | None = None) -> dict[str, Any]:
        """Loads model and checkpointables from a file written by ``save``; "" loads nothing.

        Returns:
            what else the file held.

        Raises:
            UserError: a file that cannot be read, or that is of another model.
        """
        if not path:
            self.logger.info("No checkpoint named: the model keeps its initial weights")
            return {}
        return self._apply(read_checkpoint(path, self.path_manager), path, checkpointables)

    def resume(self) -> dict[str, Any]:
        """Loads everything from the newest readable file of the folder.

        Returns:
            what the file held beside model and checkpointables; {} where the folder holds no checkpoint.

        Raises:
            UserError: there are checkpoints, and none can be read.
        """
        tried = []
        for path in self._candidates():
            try:
                data = read_checkpoint(path, self.path_manager)
            except UserError as error:
                tried.append(str(error).splitlines()[0])
                self.logger.warning("skipped while resuming: %s", tried[-1])
                continue
            return self._apply(data, path, None)
        if tried:
            raise UserError(f"--resume: no readable checkpoint in {self.save_dir}; tried\n  " + "\n  ".join(tried))
        return {}

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """``resume`` if asked and possible, else the model's weights only from ``path``."""
        if resume and self.has_checkpoint():
            return self.resume()
        return self.load(path, checkpointables=[])

    def periodic_files(self) -> list[str]:
        """Paths of the periodic files ``model_{iteration}.pth`` in the folder, oldest iteration first."""
        paths = Path(self.save_dir).glob("model_*.pth")
        found = [(int(m[1]), str(p)) for p in paths if (m := _PERIODIC.search(p.name))]
        return [path for _, path in sorted(found)]

    def _candidates(self) -> list[str]:
        """Files to resume from, best first: the tagged one, then the newest."""
        if not self.save_dir or not os.path.isdir(self.save_dir):
            return []
        tagged = self.get_checkpoint_file()
        final = os.path.join(self.save_dir, "model_final.pth")
        others = [p for p in (final, *self.periodic_files()) if os.path.isfile(p)]
        newest_first = sorted(others, key=lambda p: (os.path.getmtime(p), p), reverse=True)
        exists = [p for p in (tagged, *newest_first) if p and os.path.isfile(p)]
        if tagged and tagged not in exists:
            self.logger.warning("last_checkpoint names %s, which does not exist", os.path.basename(tagged) or "nothing")
        return list(dict.fromkeys(exists))

    def _apply(self, data: dict[str, Any], path: str, checkpointables: Iterable[str] | None) -> dict[str, Any]:
        self.logger.info("Loading from %s", path)
        load_state(self.model, data.pop("model"), strict=True, name=path)
        for key in self.checkpointables if checkpointables is None else checkpointables:
            if key in data:
                self.checkpointables[key].load_state_dict(data.pop(key))
        return data
