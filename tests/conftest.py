"""What every test leaves as it found it."""

from __future__ import annotations

import logging

import pytest

LOGGERS = ("detrex_ext", "detectron2", "fvcore")


@pytest.fixture(autouse=True)
def loggers_stay_as_they_were():
    """A training sends its loggers to the console and to a file; the next test starts without that."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(list(x.handlers), x.level, x.propagate) for x in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        for handler in set(logger.handlers) - set(handlers):
            handler.close()
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)
