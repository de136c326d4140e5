"""Errors meant for the person who runs a command: one message, no traceback."""

from __future__ import annotations

import errno

# A disk that is full, broken or closed to this person, or a name or size that it cannot hold,
# or a folder where a file should be, and the other way round: no fault of the program.
_DISK = tuple(
    getattr(errno, name)
    for name in "ENOSPC EDQUOT EFBIG EROFS EACCES EPERM ENAMETOOLONG EISDIR ENOTDIR EIO ESTALE".split()
    if hasattr(errno, name)
)


class UserError(Exception):
    """Bad input. The message says what, where, found against expected, and what to do.

    The command line prints it once on standard error and exits with code 2; in a library call it is an
    ordinary exception.
    """


class JobFailed(Exception):
    """A process of a job was killed, stopped or lost, through no fault of the program; exit code 1."""


def of_disk(error: OSError) -> str:
    """What to tell of an error of the disk; "" where it is another one."""
    if error.errno not in _DISK:
        return ""
    return f"{error.filename or 'a file that was being written'}: {error.strerror}"


class UnknownKeyError(UserError, KeyError):
    """A key that a config does not have: for code written for detectron2 a KeyError, as there."""

    __str__ = Exception.__str__  # a KeyError would show its message quoted, on one line
