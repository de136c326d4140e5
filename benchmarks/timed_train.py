#!/usr/bin/env python
"""`tools/train_net.py` that also writes the time of its steps: `timed_train.py FILE ARGUMENT...`.

A step is all of it: waiting for data, losses, gradients, the update. On a CPU its time is the processor time of the
process, which hardly depends on what runs beside it; on a GPU it is wall time, until the device has done all of it.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

from detrex_ext.benchmark.measure import wait
from detrex_ext.cli.train import main
from detrex_ext.engine.trainer import Trainer

# the first steps find caches empty
SKIPPED = 5


def timed(run_step, seconds: list[float]):
    """`Trainer.run_step` that notes how long it took."""

    def run(self: Trainer) -> None:
        clock = time.process_time if self.device.type == "cpu" else time.perf_counter
        wait(self.device.type)
        start = clock()
        run_step(self)
        wait(self.device.type)
        seconds.append(clock() - start)

    return run


if __name__ == "__main__":
    noted: list[float] = []
    Trainer.run_step = timed(Trainer.run_step, noted)
    code = main(sys.argv[2:])
    if not code and noted:
        kept = noted[SKIPPED:] if len(noted) > 2 * SKIPPED else noted
        Path(sys.argv[1]).write_text(json.dumps({"seconds": statistics.fmean(kept)}) + "\n", encoding="utf-8")
    sys.exit(code)
