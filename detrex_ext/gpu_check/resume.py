"""The step `resume`: a run that was killed and resumed, beside two that were not.

Sums by atomics differ in their last bits from run to run, so that two whole runs need not be equal on a GPU; the
resumed one must be no further from a whole one than they are from each other, or little more.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch

from detrex_ext.checkpoint import RunFolder, read_checkpoint
from detrex_ext.config import load_config
from detrex_ext.data import shapes
from detrex_ext.engine import Trainer, train

from .table import Case, Options, Row, found

_STEPS, _SAVED, _KILLED = 8, 3, 5
_MOST = 4.0  # times the distance of two whole runs
_LIMIT = 60.0


def cases(options: Options) -> list[Case]:
    """One case."""
    return [Case("killed in step 5, saved at 3", lambda: resumed(options))]


def resumed(options: Options) -> Row:
    """Weights at the end."""
    with tempfile.TemporaryDirectory(prefix="gpu_check_") as folder:
        root = Path(folder)
        shapes.write(root / "data", 8, 2, 64, 0)
        command = [sys.executable, "-m", __name__, str(root), options.device]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, timeout=_LIMIT)
        folder = RunFolder(root / "killed")
        saved = folder.files()
        if done.returncode == 0 or saved != [folder.periodic(_SAVED - 1)]:
            names = ", ".join(path.name for path in saved) or "nothing"
            return found(False, f"the run to be killed ended with code {done.returncode} and left {names}")
        for name in ("whole", "again"):
            run(root, name, options.device)
        run(root, "killed", options.device, resume=True)
        return judged(*(weights(root / name) for name in ("whole", "again", "killed")))


def judged(whole: torch.Tensor, again: torch.Tensor, other: torch.Tensor) -> Row:
    """The row of three runs' weights (P,)."""
    scale = float(whole.norm())
    noise, far = (float((x - whole).norm()) / scale for x in (again, other))
    right = far <= _MOST * noise
    note = "equal to the bit" if not far else f"{far:.1e} off; two whole runs are {noise:.1e} off each other"
    return found(right, note, resumed_differs=far, whole_runs_differ=noise)


def weights(folder: Path) -> torch.Tensor:
    """All that the final checkpoint holds of the model, in one row of fp64."""
    model = read_checkpoint(RunFolder(folder).final)["model"]
    return torch.cat([value.double().flatten() for value in model.values()])


def run(root: Path, name: str, device: str, resume: bool = False) -> None:
    """A training of a few steps."""
    data = [f"dataset.{split}_{what}={root / 'data' / place}" for split in ("train", "val")
            for what, place in (("json", f"{split}.json"), ("images", "images"))]  # fmt: skip
    sizes = ["dataset.short_edge=64", "dataset.long_edge=64", "dataloader.train.total_batch_size=4",
             "dataloader.train.num_workers=0", "dataloader.test.num_workers=0"]  # fmt: skip
    own = [f"train.device={device}", f"train.output_dir={root / name}", f"train.max_iter={_STEPS}", "train.seed=0",
           f"train.checkpointer.period={_SAVED}", "train.eval_period=0"]  # fmt: skip
    train(load_config("dino_r50_4scale_12ep", ["tiny"], [*data, *sizes, *own]), SimpleNamespace(resume=resume))


def die(trainer: Trainer) -> None:
    """Ends the process, as `kill -9` does."""
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


def _killed(root: Path, device: str) -> None:
    inner = Trainer.run_step
    Trainer.run_step = lambda self: die(self) if self.iter == _KILLED else inner(self)
    run(root, "killed", device)


if __name__ == "__main__":
    _killed(Path(sys.argv[1]), sys.argv[2])
