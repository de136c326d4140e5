"""The checkpointer of a run folder: fvcore's, writing whole files and reading the newest one that can be read."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fvcore.common.checkpoint import Checkpointer as _FvcoreCheckpointer
from torch import nn

from detrex_ext.errors import UserError
from detrex_ext.runtime import PathManager, comm

from .files import read_checkpoint, remove_leftovers, write_checkpoint, write_whole
from .load import load_state

logger = logging.getLogger(__name__)
_PERIODIC = re.compile(r"model_(\d{7,})\.pth$")


@dataclass
class Saved:
    """A checkpoint in memory, and the file it was read from."""

    path: str
    data: dict[str, Any]


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
        logger.info("Saving checkpoint to %s", path)
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
        return bool(_candidates(self.save_dir))

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

    @staticmethod
    def newest(save_dir: str) -> Saved | None:
        """The newest readable checkpoint of a folder; None where it holds no checkpoint.

        Raises:
            UserError: there are checkpoints, and none can be read.
        """
        tried = []
        for path in _candidates(save_dir):
            try:
                return Saved(path, read_checkpoint(path))
            except UserError as error:
                tried.append(str(error).splitlines()[0])
                logger.warning("skipped while resuming: %s", tried[-1])
        if tried:
            raise UserError(f"--resume: no readable checkpoint in {save_dir}; tried\n  " + "\n  ".join(tried))
        return None

    def resume(self) -> dict[str, Any]:
        """Loads everything from the newest readable file of the folder.

        Returns:
            what the file held beside model and checkpointables; {} where the folder holds no checkpoint.

        Raises:
            UserError: there are checkpoints, and none can be read.
        """
        saved = self.newest(self.save_dir)
        return {} if saved is None else self.apply(saved)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """``resume`` if asked and possible, else the model's weights only from ``path``."""
        if resume and self.has_checkpoint():
            return self.resume()
        return self.load(path, checkpointables=[])

    def periodic_files(self) -> list[str]:
        """Paths of the periodic files ``model_{iteration}.pth`` in the folder, oldest iteration first."""
        return _periodic_files(self.save_dir)

    def apply(self, saved: Saved, checkpointables: Iterable[str] | None = None) -> dict[str, Any]:
        """Loads a checkpoint that was read already into model and checkpointables (None = all)."""
        logger.info("Loading from %s", saved.path)
        data = dict(saved.data)
        load_state(self.model, data.pop("model"), strict=True, name=saved.path)
        for key in self.checkpointables if checkpointables is None else checkpointables:
            if key in data:
                self.checkpointables[key].load_state_dict(data.pop(key))
        return data


def _candidates(folder: str) -> list[str]:
    """Files to resume from, best first: the tagged one, then the newest."""
    if not folder or not os.path.isdir(folder):
        return []
    tag = Path(folder, "last_checkpoint")
    name = tag.read_text(encoding="utf-8").strip() if tag.is_file() else None
    tagged = os.path.join(folder, name or "")
    others = [p for p in (os.path.join(folder, "model_final.pth"), *_periodic_files(folder)) if os.path.isfile(p)]
    newest_first = sorted(others, key=lambda p: (os.path.getmtime(p), p), reverse=True)
    if name is not None and not os.path.isfile(tagged):
        logger.warning("%s names %s, which does not exist", tag, name or "nothing")
    return list(dict.fromkeys(p for p in (tagged, *newest_first) if os.path.isfile(p)))


def _periodic_files(folder: str) -> list[str]:
    found = [(int(m[1]), str(p)) for p in Path(folder).glob("model_*.pth") if (m := _PERIODIC.search(p.name))]
    return [path for _, path in sorted(found)]
