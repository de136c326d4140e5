"""`python -m detrex_ext zoo`: the models that ``zoo:NAME`` stands for: listed, their files checked, new ones built."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from detrex_ext.config.files import near
from detrex_ext.errors import UserError

from .arguments import Parser
from .outputs import make_folder, show
from .zoo_recipes import RECIPES

EPILOG = """\
examples:
  what there is, and how it is used:
    python -m detrex_ext zoo
  is this the file that it should be?
    python -m detrex_ext zoo check small_shapes-0123abcd.pth
  train one, and write its file and its entry for zoo.json:
    python -m detrex_ext zoo build small_shapes --output dist/zoo
"""


def build_parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    parser = Parser(
        prog="python -m detrex_ext zoo",
        description="Models by name: train.init_checkpoint=zoo:NAME, load('zoo:NAME'), predict zoo:NAME",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("what", nargs="?", choices=("list", "check", "build"), default="list", help="default: list")
    add("names", nargs="*", metavar="FILE_OR_NAME", help="check: files or models; build: " + ", ".join(RECIPES))
    add("--all", action="store_true", default=None, help="build all of these")
    add("--output", metavar="DIR", help="folder that a build writes to")
    add("--steps", type=int, metavar="N", help="build with a training of N steps, to try it")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """List, check or build.

    Returns:
        0; 1 where a file is none of the zoo's.

    Raises:
        UserError: no such model, a file that cannot be read, a training that was refused.
    """
    args = build_parser().parse_args(argv)
    stray = [name for name in ("all", "output", "steps") if getattr(args, name) is not None]
    if args.what != "build" and stray:
        raise UserError(f"--{stray[0]} goes with build: python -m detrex_ext zoo build NAME --output DIR")
    if args.what == "build":
        return _build(args)
    if args.what == "check":
        if not args.names:
            raise UserError("zoo check: name a file, or a model of the zoo")
        return max(map(_check, args.names))
    if args.names:
        raise UserError(f"zoo list takes no names, found {args.names[0]}; to check a model: zoo check {args.names[0]}")
    return _list()


def _list() -> int:
    from detrex_ext.checkpoint.zoo import file_problem, folders
    from detrex_ext.checkpoint.zoo_entries import entries

    found = entries()
    for entry in found.values():
        paths = [os.path.join(folder, entry.file) for folder in folders()]
        path = next(filter(os.path.lexists, paths), "")
        missing = f"not here: {entry.where}" if entry.where != entry.file else f"not here: {entry.file} of the release"
        metric = ", ".join(f"{name} {value:.1f}" for name, value in entry.metric.items())
        file = f"{path} {file_problem(path, entry)}".rstrip() if path else missing
        show(f"zoo:{entry.name}\n"
             f"  trained    {' + '.join((entry.config, *entry.overlays))}, {' '.join(entry.overrides)}\n"
             f"  data       {entry.data}, {entry.license['data']}\n"
             f"  weights    {metric}; {entry.size / 1e6:.1f} MB, {entry.license['weights']}\n"
             f"  file       {file}")  # fmt: skip
    if not found:
        show("zoo.json holds no model yet")
    show("\npredict with one: python -m detrex_ext predict zoo:NAME IMAGES --output DIR\n"
         "start from one:   python -m detrex_ext train --config-file CONFIG train.init_checkpoint=zoo:NAME\n"
         f"build one:        python -m detrex_ext zoo build NAME --output DIR   ({', '.join(RECIPES)})")  # fmt: skip
    return 0


def _check(word: str) -> int:
    """A file, or the file of a model; 1 where it is none of the zoo's."""
    from detrex_ext.checkpoint import read_checkpoint
    from detrex_ext.checkpoint.digests import sha256_of
    from detrex_ext.checkpoint.zoo import find_zoo
    from detrex_ext.checkpoint.zoo_entries import entries

    known = entries()
    path = word if os.path.lexists(word) else ""
    if not path and ("." in word or "/" in word or os.sep in word):
        raise UserError(f"zoo check {word}: no such file")
    path = path or find_zoo(word.removeprefix("zoo:").removeprefix("//"))
    if not os.path.isfile(path):
        raise UserError(f"zoo check {path}: expected a file")
    digest = sha256_of(path)
    entry = next((one for one in known.values() if one.sha256 == digest), None)
    if entry is None:
        alike = next((one for one in known.values() if os.path.basename(path).startswith(f"{one.name}-")), None)
        wanted = f"\n  zoo:{alike.name} is {alike.sha256}, {alike.size:,} bytes" if alike else ""
        size = os.path.getsize(path)
        show(f"{path}: is no file of the zoo: SHA-256 {digest}, {size:,} bytes{wanted}", sys.stderr)
        return 1
    data = read_checkpoint(path)
    classes = ", ".join(data.get("class_names", ()))
    show(f"{path}: is zoo:{entry.name}, SHA-256 {digest}; {len(data['model'])} tensors, classes {classes}")
    return 0


def _build(args: argparse.Namespace) -> int:
    if bool(args.names) == bool(args.all):
        raise UserError(f"zoo build: name models, or --all; there are: {', '.join(RECIPES)}")
    for name in args.names:
        if name not in RECIPES:
            raise UserError(f"zoo build {name}: no recipe of that name; {near(name, RECIPES)}")
    if not args.output:
        raise UserError("zoo build: name a folder to write to, --output DIR")
    if args.steps is not None and args.steps < 1:
        raise UserError(f"--steps {args.steps}: expected 1 or more")
    folder = make_folder(args.output)

    from .zoo_build import build

    for path, entry in [build(name, folder, args.steps) for name in (RECIPES if args.all else args.names)]:
        show(f"{path}\n{entry}: to paste into detrex_ext/zoo.json")
    return 0
