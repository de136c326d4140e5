#!/usr/bin/env python
"""Runs the commands that a page of measurements names, and writes what they print into the page.

    python benchmarks/page.py benchmarks/tsp.md                      # the names of its blocks
    python benchmarks/page.py benchmarks/tsp.md sizes targets        # makes two of them

A block of a page begins with ``<!-- made: NAME -->`` or, where plain text is printed, ``<!-- made: NAME, text -->``;
then come its commands, fenced as bash, what they printed with the commit and the machine that it was, and
``<!-- end -->``. All else on the page is written by hand. ``python`` in a command is the interpreter of this one.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from compare import ROOT, commit

from detrex_ext.runtime.machine import processor

BLOCK = re.compile(
    r"(?P<head><!-- made: (?P<name>[\w-]+)(?P<kind>, text)? -->\n```bash\n(?P<commands>.*?)\n```\n)"
    r"(?P<made>.*?)(?P<end><!-- end -->)",
    re.DOTALL,
)


def run(commands: str) -> str:
    """What commands print on standard output, in this checkout.

    Raises:
        SystemExit: one of them failed.
    """
    ways = [os.path.dirname(sys.executable), os.environ.get("PATH", "")]
    env = {**os.environ, "PATH": os.pathsep.join(ways), "PYTHONPATH": str(ROOT)}
    strict = ["bash", "-euo", "pipefail", "-c", commands]
    done = subprocess.run(strict, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{commands}\nfailed with {done.returncode}; the page is as it was")
    return done.stdout.strip()


def stamp(printed: str) -> str:
    """The machine, and the commit unless what was printed has one."""
    parts = [processor(), f"{os.cpu_count()} virtual cores", f"torch {torch.__version__.partition('+')[0]}"]
    parts += [] if re.search(r"\bcommit \w", printed) else [f"commit {commit()}"]
    return f"*{', '.join(parts)}*"


def make(page: str, names: Sequence[str]) -> str:
    """A page with some of its blocks made anew.

    Raises:
        SystemExit: the page has no such block, or a command failed.
    """
    known = [m["name"] for m in BLOCK.finditer(page)]
    if missing := set(names) - set(known):
        raise SystemExit(f"no block {', '.join(sorted(missing))}; there are {', '.join(known) or 'none'}")

    def filled(m: re.Match[str]) -> str:
        if m["name"] not in names:
            return m[0]
        printed = run(m["commands"])
        shown = f"```text\n{printed}\n```" if m["kind"] else printed
        return f"{m['head']}\n{shown}\n\n{stamp(printed)}\n{m['end']}"

    return BLOCK.sub(filled, page)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help="blocks to make; none: their names are printed")
    args = parser.parse_args()
    page = args.page.read_text(encoding="utf-8")
    if not args.names:
        print("\n".join(m["name"] for m in BLOCK.finditer(page)))
    for name in args.names:  # what was made is kept when a later one fails
        page = make(page, [name])
        args.page.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
