"""Errors meant for the person who runs a command: one message, no traceback."""

from __future__ import annotations


class UserError(Exception):
    """Bad input. The message says what, where, found against expected, and what to do.

    The command line prints it once on standard error and exits with code 2; in a library call it is an
    ordinary exception.
    """


class UnknownKeyError(UserError, KeyError):
    """A key that a config does not have: for code written for detectron2 a KeyError, as there."""

    __str__ = Exception.__str__  # a KeyError would show its message quoted, on one line
