"""The folder of a run: the one place that knows what is in it and by what names."""

from __future__ import annotations

import fnmatch
import json
import logging
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detrex_ext.errors import UserError

from .files import own_iteration, read_checkpoint, write_whole
from .metric_lines import metric_lines

logger = logging.getLogger(__name__)
_PERIODIC = re.compile(r"model_(\d{7,})\.pth")
# what another run in the folder would write over, and what only belongs to it
_FIGURES = ("metrics.json", "metrics.csv", "evaluation.json", "wandb.json")
_RESULTS = ("last_checkpoint", *_FIGURES, "model_*.pth", "non_finite*.pth")
_EVENTS = "events.out.tfevents.*"
_REPORT = "report.html"
_LOGS = ("log.txt", "log.txt.rank*")
_OTHERS = (*_LOGS, "config.yaml*", ".lock", _REPORT)


@dataclass(frozen=True)
class Saved:
    """A checkpoint in memory, and the file it was read from."""

    path: str
    data: dict[str, Any]


class RunFolder:
    """What a training leaves behind: checkpoints, metrics, config, logs.

    Its checkpoint is the one that ``--resume`` goes on from: the file named by ``last_checkpoint``, and where that
    cannot be read the one of the latest iteration that can. Loading, predicting, evaluating and analyzing take the
    same. ``model_best.pth`` is taken by its name only.

    Args:
        path: the folder; it need not be there.

    Attributes:
        config, metrics, evaluation: ``config.yaml``, ``metrics.json`` (a JSON object per line) and ``evaluation.json``
            (what was evaluated last).
        csv, wandb: ``metrics.csv``, the same as a table, and ``wandb.json``, the id of the run at W&B; where wanted.
        report: ``report.html``, the page about the run.
        final, best: checkpoints of the last iteration and of the best evaluation.
        lock: held by the training that goes on in the folder.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self.config, self.metrics = self.path / "config.yaml", self.path / "metrics.json"
        self.evaluation, self.lock = self.path / "evaluation.json", self.path / ".lock"
        self.csv, self.wandb = self.path / "metrics.csv", self.path / "wandb.json"
        self.report = self.path / _REPORT
        self.final, self.best = self.path / "model_final.pth", self.path / "model_best.pth"
        self._tag = self.path / "last_checkpoint"

    def periodic(self, iteration: int) -> Path:
        """The periodic checkpoint written after an iteration (from 0)."""
        return self.path / f"model_{iteration:07d}.pth"

    def non_finite(self, rank: int = 0) -> Path:
        """The last batch of a process whose loss was not finite."""
        return self.path / (f"non_finite_rank{rank}.pth" if rank else "non_finite.pth")

    def periodic_files(self) -> list[Path]:
        """All periodic checkpoints, oldest iteration first."""
        named = [(m, p) for p in self.path.glob("model_*.pth") if (m := _PERIODIC.fullmatch(p.name))]
        return [path for _, path in sorted((int(m[1]), p) for m, p in named if p.is_file())]

    def tag(self, path: str | os.PathLike) -> None:
        """Names a checkpoint of the folder as the newest, in one step."""
        write_whole(self._tag, lambda file: file.write(os.path.basename(path).encode()))

    def checkpoints(self) -> list[tuple[int, Path]]:
        """(iteration, file) of the periodic checkpoints and the final one, each at the iteration that it states itself.

        A final one that states none, or cannot be read, is left out with a line in the log.
        """
        found = {}
        for path in self.files():
            iteration = iteration_of(path)
            if iteration is None:
                logger.warning("left out: %s states no iteration, or cannot be read", path)
            else:
                found[iteration] = path
        return sorted(found.items())

    def newest(self) -> Saved | None:
        """The checkpoint to go on from and to predict with; None where the folder holds none.

        Raises:
            UserError: there are checkpoints, and none can be read.
        """
        tried: dict[Path, str] = {}
        for path in self._candidates():
            if path in tried:
                continue
            try:
                return Saved(str(path), read_checkpoint(path))
            except UserError as error:
                tried[path] = str(error).splitlines()[0]
                logger.warning("skipped: %s", tried[path])
        if tried:
            raise UserError(f"no readable checkpoint in {self.path}; tried\n  " + "\n  ".join(tried.values()))
        return None

    def files(self) -> list[Path]:
        """The periodic checkpoints, oldest iteration first, and the final one; none that leads out of the folder."""
        final = [self.final] if self.final.is_file() else []
        return [path for path in (*self.periodic_files(), *final) if self._holds(path)]

    def _holds(self, path: Path) -> bool:
        """Whether a file lies in the folder itself; a link to one of another run would bring its weights here."""
        held = path.resolve().parent == self.path.resolve()
        if not held:
            logger.warning("left out: %s leads out of the folder, to %s", path, path.resolve())
        return held

    def tagged(self) -> Path | None:
        """The checkpoint that ``last_checkpoint`` names, where it names a file of the folder."""
        if not self._tag.is_file():
            return None
        with open(self._tag, encoding="utf-8", errors="replace") as file:
            name = file.read(300).strip()
        named = name and name == os.path.basename(name) and os.path.isfile(self.path / name)
        if named and self._holds(self.path / name):
            return self.path / name
        logger.warning("%s names %.80r, which is no file of the folder", self._tag, name)
        return None

    def _candidates(self) -> Iterator[Path]:
        """Files to go on from, best first; others than the tagged one are opened when that was no use."""
        if (tagged := self.tagged()) is not None:
            yield tagged
        elif os.path.lexists(self._tag) and not self._tag.is_file():
            logger.warning("%s is no file: the checkpoint of the latest iteration is taken", self._tag)
        # a final one that states no iteration is the last by its name
        progress = {path: math.inf if (at := iteration_of(path)) is None else at for path in self.files()}
        yield from sorted(reversed(progress), key=progress.get, reverse=True)

    def read_metrics(self) -> list[dict[str, Any]]:
        """The whole lines of ``metrics.json``, in its order."""
        return metric_lines(self.metrics)

    def truncate_metrics(self, iteration: int) -> int:
        """Drops the lines of ``metrics.json`` after an iteration (-1: all), broken ones and second ones, in one step.

        Returns:
            The number of lines kept; 0 when there is no file.
        """
        if not self.metrics.is_file():
            return 0
        kept: list[dict[str, Any]] = []
        for line in self.read_metrics():
            if line["iteration"] <= iteration and (not kept or kept[-1]["iteration"] < line["iteration"]):
                kept.append(line)
        text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in kept)
        write_whole(self.metrics, lambda file: file.write(text.encode()))
        return len(kept)

    def results(self) -> list[Path]:
        """Checkpoints and metrics of a run: what another one would write over."""
        return sorted(path for path in self._found(*_RESULTS) if path.lstat().st_size)

    def obstacle(self) -> str:
        """Why no run can be written here: something else has the name of a file, as a link to be appended to; or ""."""
        odd = {path.name for path in self._found(*_RESULTS, *_OTHERS) if not path.is_file()}
        odd |= {path.name for path in self._found("metrics.*", *_LOGS) if path.is_symlink()}
        told = "expected a file, found a folder, a pipe or a link\n  move it away"
        return f"{self.path / min(odd)}: {told}" if odd else ""

    def remove_results(self) -> None:
        """Deletes checkpoints, metrics, the report and TensorBoard's events; config and logs stay."""
        for path in self._found(*_RESULTS, _EVENTS, _REPORT):
            path.unlink()

    def logs(self) -> list[Path]:
        """Logs of all ranks."""
        return self._found(*_LOGS)

    def _found(self, *patterns: str) -> list[Path]:
        names = os.listdir(self.path) if self.path.is_dir() else []  # Path.glob leaves dead links out
        return [self.path / name for pattern in patterns for name in fnmatch.filter(names, pattern)]


def iteration_of(path: Path) -> int | None:
    """The iteration that a checkpoint states, else the number in its name; None where there is neither."""
    stated, named = own_iteration(path), _PERIODIC.fullmatch(path.name)
    return int(named[1]) if stated is None and named else stated
