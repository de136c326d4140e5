"""Checkpoints: atomic writing, safe reading, and weights of other projects by tables of key names."""

from .checkpointer import Checkpointer, Saved
from .files import FORMAT_HELP, read_checkpoint, resolve, write_checkpoint
from .layouts import to_layout
from .load import LoadReport, load_state, load_weights

__all__ = [
    "Checkpointer",
    "FORMAT_HELP",
    "LoadReport",
    "Saved",
    "load_state",
    "load_weights",
    "read_checkpoint",
    "resolve",
    "to_layout",
    "write_checkpoint",
]
