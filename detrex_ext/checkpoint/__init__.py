"""Checkpoints: atomic writing, safe reading, and weights of other projects by tables of key names."""

from .addresses import FORMAT_HELP, names_weights, resolve
from .checkpointer import Checkpointer
from .convert import classes_of, convert
from .files import read_checkpoint, write_checkpoint
from .installed import has_pretrained
from .layouts import to_layout
from .load import load_state, load_weights
from .report import LoadReport
from .run_folder import RunFolder, Saved
from .weights import Weights, find_weights

__all__ = [
    "Checkpointer",
    "FORMAT_HELP",
    "LoadReport",
    "RunFolder",
    "Saved",
    "Weights",
    "classes_of",
    "convert",
    "find_weights",
    "has_pretrained",
    "load_state",
    "load_weights",
    "names_weights",
    "read_checkpoint",
    "resolve",
    "to_layout",
    "write_checkpoint",
]
