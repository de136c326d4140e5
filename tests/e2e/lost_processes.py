"""A training of two processes in which something happens to the second; run as a script, alone or under torchrun.

    python lost_processes.py KIND DATA OUT [override ...]

The time at which it happened is in ``OUT/happened``.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from pathlib import Path

import torch
from training import Flags, config

from detrex_ext import engine
from detrex_ext.cli import run
from detrex_ext.errors import UserError
from detrex_ext.runtime import comm, launch

AT = 2


def send(number: int, to_parent: bool = False):
    def act(trainer, losses):
        os.kill(os.getppid() if to_parent else os.getpid(), number)

    return act


def nan(trainer, losses):
    losses["loss_class"] = losses["loss_class"] * math.nan


def wrong(trainer, losses):
    raise KeyError("a fault of the program")


def user(trainer, losses):
    raise UserError("what is wrong\n  what to do")


def disk(trainer, losses):
    raise OSError(28, "No space left on device", "a.pth")


KINDS = {
    "killed": send(signal.SIGKILL),
    "stopped": send(signal.SIGSTOP),
    "parent_killed": send(signal.SIGKILL, True),
    "parent_terminated": send(signal.SIGTERM, True),
    "nan": nan,
    "wrong": wrong,
    "user": user,
    "disk": disk,
    "image": lambda trainer, losses: None,
}


def work(kind: str, data: str, out: str, more: list[str]) -> None:
    torch.set_num_threads(1)
    inner = engine.Trainer._forward

    def forward(self, part, effective, parts):
        losses, stats = inner(self, part, effective, parts)
        if self.iter == AT and comm.get_rank() == 1:
            Path(out, "happened").write_text(str(time.time()))
            KINDS[kind](self, losses)
        return losses, stats

    engine.Trainer._forward = forward
    engine.train(config(Path(data), Path(out), *more), Flags())


def main(argv: list[str]) -> int:
    from torch.multiprocessing import ProcessExitedException

    kind, data, out, *more = argv
    limit = next((float(one.partition("=")[2]) for one in more if one.startswith("train.watchdog=")), 20.0)
    try:
        launch(work, 2, args=(kind, data, out, more), device="cpu", watchdog=limit)
    except ProcessExitedException as error:
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
