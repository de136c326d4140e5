"""The process that runs cases, one after the other; it may crash or hang, what it found before is on disk.

The first line of standard input is its task as JSON; the end of the input means that nobody waits for it any more.
Every line that it writes to the file of the task is an event: a step begins and names its cases, a case begins, has
a row, a step ends.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from .table import NOT_HERE, Case, NotHere, Options, Row, found, resolve

BROKEN = 3  # exit code where the GPU does not answer this process any more; the next cases want another one
_LENGTH = 300


def main() -> int:
    """Work off the task of standard input.

    Returns:
        0 where all cases have a row, ``BROKEN`` where another process has to go on.
    """
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_input, daemon=True).start()
    options = Options(**task["options"])
    if options.device.startswith("cuda:"):  # the current one is waited for
        import torch

        torch.cuda.set_device(options.device)
    table = {step.name: step for step in resolve(task["table"])}
    done = {tuple(pair) for pair in task["done"]}
    with open(task["events"], "a", encoding="utf-8") as file:

        def tell(event: str, **values: Any) -> None:
            file.write(json.dumps({"event": event, **values}, default=str) + "\n")
            file.flush()

        for name in task["steps"]:
            tell("step", step=name)
            cases = [case for case in resolve(table[name].where)(options) if options.match in case.name]
            tell("cases", step=name, names=[case.name for case in cases])
            for case in cases:
                if (name, case.name) not in done and not _run(name, case, tell):
                    return BROKEN
            tell("end", step=name)
    return 0


def _run(step: str, case: Case, tell: Callable[..., None]) -> bool:
    """Runs a case and tells its row; whether this process can go on."""
    tell("case", step=step, case=case.name)
    start = time.perf_counter()
    row = row_of(case)
    sound = _settled()
    tell("row", step=step, case=case.name, seconds=round(time.perf_counter() - start, 2), row=row)
    gc.collect()
    return sound


def row_of(case: Case) -> Row:
    """The row of a case, whatever it raises."""
    try:
        row = case.run()
        _wait()  # what the GPU has to object belongs to this case
        return row
    except NotHere as reason:
        return found(None, f"{NOT_HERE}{reason}")
    except Exception as error:
        traceback.print_exc()
        told = " ".join(str(error).split())
        return found(False, f"{type(error).__name__}: {told}"[:_LENGTH])


def _wait() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _settled() -> bool:
    """Whether the GPU still answers; its memory is given back."""
    try:
        _wait()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            gc.collect()
            torch.cuda.empty_cache()
    except Exception:
        traceback.print_exc()
        return False
    return True


def _end_with_the_input() -> None:
    while sys.stdin.readline():
        pass
    os._exit(4)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # what libraries do at their end may hang where a GPU is broken
