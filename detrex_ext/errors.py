"""Errors meant for the person who runs a command: one message, no traceback."""

from __future__ import annotations


class UserError(Exception):
    """Bad input. The message says what, where, found against expected, and what to do.

    The command line prints it once on standard error and exits with code 2; in a library call it is an
    ordinary exception.
    """
