"""Override lines drawn from a seed, and what ``train`` makes of each, up to its first step.

As a program it prints a line for each: ``PYTHONPATH=. python tests/e2e/override_lines.py [COUNT]``.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from omegaconf import DictConfig, ListConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import narrow  # noqa: E402

from detrex_ext.cli import dispatch  # noqa: E402
from detrex_ext.config import load_config  # noqa: E402
from detrex_ext.engine import Trainer  # noqa: E402

HOSTS = ("small", "dino_r50_4scale_12ep", "adamixer_r50_12ep")
VALUES = (
    "null", "-1", "0", "1000000000000", "100000000000000000000", "nan", "inf", "x", "true", "[]", "{}", "''", "0.5",
    "größe", "y" * 5000,
)  # fmt: skip
SECONDS = 15


class _FirstStep(BaseException):
    """Everything is built and checked."""


class _TooLong(BaseException):
    """The line took longer than its limit."""


def leaves(node: DictConfig | ListConfig, prefix: str = "") -> Iterator[str]:
    """Keys that hold a value, an interpolation or an empty section."""
    for name in range(len(node)) if isinstance(node, ListConfig) else node.keys():
        child = node._get_node(name)
        if isinstance(child, DictConfig | ListConfig) and not child._is_interpolation() and not child._is_none():
            yield from leaves(child, f"{prefix}{name}.") if len(child) else [f"{prefix}{name}"]
        else:
            yield f"{prefix}{name}"


def lines(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """(host, override): each key of the hosts once in turn, with a value drawn for it."""
    rng = random.Random(seed)
    keys = [(host, key) for host in HOSTS for key in leaves(load_config(host))]
    rng.shuffle(keys)
    values = {}
    drawn = []
    for host, key in (keys * (count // len(keys) + 1))[:count]:
        if not values.get((host, key)):
            values[host, key] = rng.sample(VALUES, len(VALUES))
        drawn.append((host, f"{key}={values[host, key].pop()}"))
    return drawn


class Start:
    """Starts trainings that end where their first step would begin.

    Args:
        data: a data set written by ``shapes.write``.
        folder: where the runs go.
    """

    def __init__(self, data: Path, folder: Path) -> None:
        self.folder = folder
        places = [f"dataset.{part}_json={data}/{part}.json" for part in ("train", "val")]
        places += [f"dataset.{part}_images={data}/images" for part in ("train", "val")]
        quick = [f"dataloader.{part}.num_workers=0" for part in ("train", "test")]
        run = ["train.device=cpu", "train.init_checkpoint=''", f"train.output_dir={folder}/run"]
        self.common = [*places, *quick, *run]

    def __call__(self, line: str, host: str = "small", *more: str) -> tuple[str, str]:
        """(``accepted``, ``refused``, ``traceback`` or ``hang``; message or the traceback's last line)."""
        shutil.rmtree(self.folder / "run", ignore_errors=True)
        base = narrow.NARROW if host == "small" else ["model.decoder.num_layers=1", "model.encoder.num_layers=1"]
        base = [x for x in base if host != "adamixer_r50_12ep" or "encoder" not in x]
        argv = ["train", "--config-file", host, *base, *self.common, *more, *([line] if line else [])]
        err = io.StringIO()
        with _folder(self.folder), _limit(SECONDS):
            try:
                with mock.patch.object(Trainer, "run_step", side_effect=_FirstStep), contextlib.redirect_stderr(err):
                    with contextlib.redirect_stdout(io.StringIO()):
                        code = dispatch(argv)
            except _FirstStep:
                return "accepted", ""
            except _TooLong:
                return "hang", f"more than {SECONDS} s"
            except SystemExit as stop:
                return "traceback", f"SystemExit({stop.code})"
            except BaseException as error:
                frame = traceback.extract_tb(error.__traceback__)[-1]
                where = f"{Path(frame.filename).name}:{frame.lineno}"
                return "traceback", f"{type(error).__name__}: {str(error).splitlines()[:1]} {where}"
        message = err.getvalue().strip()
        return ("refused" if code == 2 and message else "traceback"), message or f"exit code {code}, no message"


@contextlib.contextmanager
def _folder(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def _limit(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def shown(line: str) -> str:
    return re.sub(r"y{50,}", "yyy...", line)


def main() -> None:
    import logging

    from detrex_ext.data import shapes

    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        shapes.write(Path(folder) / "data", 12, 4, 48, 0)
        start = Start(Path(folder) / "data", Path(folder))
        chosen = [("small", x) for x in sys.argv[2:]] or lines(int(sys.argv[1]) if len(sys.argv) > 1 else 252)
        for host, line in chosen:
            what, message = start(line, host)
            counts[what] += 1
            print(f"{what:10}{host.split('_')[0]:9} {shown(line)}   {message.partition(chr(10))[0][:200]}", flush=True)
            logging.shutdown()
    print(dict(counts))


if __name__ == "__main__":
    main()
