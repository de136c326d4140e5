"""Console and file logging in detectron2's format."""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO

from termcolor import colored
from tqdm import tqdm

_ABBREVIATIONS = {"detectron2": "d2"}
_configured: dict[str, tuple] = {}


class _Formatter(logging.Formatter):
    """`[11/21 04:01:48 name]: message` on a terminal; warnings and errors are marked."""

    def __init__(self, root: str, abbreviation: str, color: bool, to_file: bool) -> None:
        datefmt = "%m/%d %H:%M:%S"
        if to_file:
            super().__init__("[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt=datefmt)
        else:
            prefix = "[%(asctime)s %(short)s]: "
            super().__init__((colored(prefix, "green") if color else prefix) + "%(message)s", datefmt=datefmt)
        self._root, self._abbreviation, self._color, self._to_file = root, abbreviation, color, to_file

    def formatMessage(self, record: logging.LogRecord) -> str:
        if not self._to_file and _only(record) == "console":  # a line of progress has no room for a name
            return f"{record.asctime[-8:]}  {record.message}"
        record.short = record.name.replace(self._root, self._abbreviation, 1)
        text = super().formatMessage(record)
        if self._to_file or record.levelno < logging.WARNING:
            return text
        label = "WARNING" if record.levelno == logging.WARNING else "ERROR"
        mark = colored(label, "red", attrs=["blink"] if label == "WARNING" else ["blink", "underline"])
        return f"{mark if self._color else label} {text}"


def _only(record: logging.LogRecord) -> str:
    """Where a record goes alone, "console" or "file": `extra={"only": ...}`; "" for both."""
    return getattr(record, "only", "")


class _StdoutHandler(logging.StreamHandler):
    """Writes to whatever `sys.stdout` is at that moment, above a bar where one is drawn."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.addFilter(lambda record: _only(record) != "file")

    @property
    def stream(self) -> TextIO:
        return sys.stdout

    def emit(self, record: logging.LogRecord) -> None:
        if sys.stdout is not None:  # as under pythonw, or where it was closed
            with tqdm.external_write_mode(file=sys.stdout):
                super().emit(record)


def on_terminal() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def setup_logger(
    output: str | None = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = "detectron2",
    abbrev_name: str | None = None,
    enable_propagation: bool = False,
    configure_stdout: bool = True,
) -> logging.Logger:
    """Send a logger to standard output (rank 0) and to a file.

    Calling it again with the same arguments changes nothing; with others, the former handlers are replaced and
    their files closed.

    Args:
        output: a `.txt` or `.log` file, or a folder for `log.txt`; other ranks write to `....rank<r>`.
        distributed_rank: of this process.
        color: colors, where standard output is a terminal.
        name: of the logger.
        abbrev_name: what stands for `name` on the console.
        enable_propagation: hand records on to the loggers above, too.
        configure_stdout: False leaves standard output alone.
    """
    logger = logging.getLogger(name)
    wanted = (output, distributed_rank, color, abbrev_name, enable_propagation, configure_stdout)
    if _configured.get(name) == wanted and logger.handlers:
        return logger
    _configured[name] = wanted
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.DEBUG)
    logger.propagate = enable_propagation
    abbreviation = abbrev_name if abbrev_name is not None else _ABBREVIATIONS.get(name, name)
    if configure_stdout and distributed_rank == 0:
        handler = _StdoutHandler()
        handler.setLevel(logging.DEBUG)
        handler.setFormatter(_Formatter(name, abbreviation, color and on_terminal(), to_file=False))
        logger.addHandler(handler)
    if output is not None:
        handler = _file_handler(str(output), distributed_rank)
        handler.setLevel(logging.DEBUG)
        handler.setFormatter(_Formatter(name, abbreviation, color=False, to_file=True))
        logger.addHandler(handler)
    return logger


def _file_handler(output: str, rank: int) -> logging.Handler:
    path = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
    path = f"{path}.rank{rank}" if rank > 0 else path
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.addFilter(lambda record: _only(record) != "console")
    return handler
