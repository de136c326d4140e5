"""One folder with all that the check needs beside torch, for a machine that no package can be installed on.

``site`` has the package, its configs and what is pure Python, ``site-3.12`` what is compiled for that Python;
``run.sh`` makes both importable and starts the check. Left out is what the machine has (``--have``) and what torch asks
for.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import detrex_ext
from detrex_ext.checkpoint.provenance import checkout
from detrex_ext.errors import UserError

from .wheels import needed, unpack, wheel

ROOT = Path(detrex_ext.__file__).resolve().parents[1]
HAVE = "torch,torchvision,triton,numpy,scipy,pillow,pyyaml"
MOST = 60 * 2**20  # bytes
_START = """#!/bin/sh
# Checks the GPU of this machine: sh run.sh [--minutes 8] [--only sampling,steps]; sh run.sh --help says more.
# Nothing is installed, and nothing is written but in this folder: the report is in out/report.md.
# PYTHON=python3.12 sh run.sh takes another Python than python3; it has to have torch.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
python=${PYTHON:-python3}
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if [ ! -d "$here/site-$version" ]; then
    echo "Python $version: this folder was made for $(cd "$here" && echo site-*), see make gpu-bundle GPU_PYTHON" >&2
    exit 2
fi
out="$here/out"
mkdir -p "$out/cache/tmp"
PYTHONPATH="$here/site:$here/site-$version${PYTHONPATH:+:$PYTHONPATH}"
PYTHONDONTWRITEBYTECODE=1 TMPDIR="$out/cache/tmp" XDG_CACHE_HOME="$out/cache" TORCHINDUCTOR_CACHE_DIR="$out/cache/torch"
TRITON_CACHE_DIR="$out/cache/triton" CUDA_CACHE_PATH="$out/cache/cuda" MPLCONFIGDIR="$out/cache"
export PYTHONPATH PYTHONDONTWRITEBYTECODE TMPDIR XDG_CACHE_HOME TORCHINDUCTOR_CACHE_DIR TRITON_CACHE_DIR
export CUDA_CACHE_PATH MPLCONFIGDIR
exec "$python" -m detrex_ext doctor --gpu --commit "$(cat "$here/commit.txt")" --out "$out" "$@"
"""


def sources() -> list[Path]:
    """Files of the package and its configs, committed or not, but nothing that git ignores."""
    parts = ["detrex_ext", "configs", "projects", "LICENSE"]
    asked = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *parts]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True)
    if done.returncode or not done.stdout:
        raise UserError(f"gpu bundle: {ROOT} is no checkout: the folder is made from one")
    files = [Path(name) for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]
    return [ROOT / path for path in files if path.parts[0] != "projects" or path.parts[2:3] == ("configs",)]


def place(path: Path) -> Path:
    """Where a file of the checkout lies in an installation: configs inside the package, as in its wheel."""
    return Path("detrex_ext", f"_{path}") if path.parts[0] in ("configs", "projects") else path


def make(out: Path, pythons: Sequence[str], machine: str, have: Sequence[str]) -> int:
    """The folder; an older one in its place goes.

    Returns:
        its size in bytes.

    Raises:
        UserError: something else is in its place, or a package is not to be had, or it became too large.
    """
    if out.exists() and not (out / "run.sh").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: something else is there; expected a new folder or an older bundle")
    files = sources()
    with tempfile.TemporaryDirectory() as folder:
        new = Path(folder) / "bundle"
        for python in pythons:
            (new / f"site-{python}").mkdir(parents=True)
            for name, number in needed(have, python).items():
                found = wheel(name, number, python, machine, Path(folder) / f"{name}-{python}")
                pure = found.name.endswith("-none-any.whl")
                unpack(found, new / ("site" if pure else f"site-{python}"))
        for path in files:
            target = new / "site" / place(path.relative_to(ROOT))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        (new / "commit.txt").write_text((checkout() or "unknown") + "\n")
        (new / "run.sh").write_text(_START)
        os.chmod(new / "run.sh", 0o755)
        size = sum(path.stat().st_size for path in new.rglob("*") if path.is_file())
        if size > MOST:
            raise UserError(f"gpu bundle: {size / 2**20:.0f} MiB, expected at most {MOST / 2**20:.0f}")
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(new, out)
    return size


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `make gpu-bundle`."""
    parser = argparse.ArgumentParser(prog="python -m detrex_ext.gpu_check.bundle", description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--python", default="3.12", help="versions with commas, 3.10 or newer (default 3.12)")
    parser.add_argument("--machine", default="x86_64", help="processor: x86_64 (default) or aarch64")
    parser.add_argument("--have", default=HAVE, help=f"packages that are there (default {HAVE})")
    args = parser.parse_args(argv)
    pythons = args.python.split(",")
    for text in pythons:
        if not re.fullmatch(r"3\.[1-9]\d", text):
            raise UserError(f"--python {text}: expected versions such as 3.12, with commas and no blanks between them")
    if not re.fullmatch(r"\w+", args.machine):
        raise UserError(f"--machine {args.machine}: expected a processor, such as x86_64")
    size = make(args.out, pythons, args.machine, [name for name in args.have.split(",") if name])
    print(f"{args.out}: {size / 2**20:.1f} MiB, for Python {', '.join(pythons)}; there: sh run.sh")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(str(error))
