"""Puts each fault of `faults.py` into a copy of the package and shows which test notices it.

    python tests/faults/run.py [WORDS ...]      only the faults whose name or file contains one of the words

Exit code 1 if a fault goes unnoticed, or if a test fails without any fault.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from faults import FAULTS, Fault  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "output", "build", "dist", "__pycache__", ".*_cache", "*.egg-info")
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


def copy_of_the_project(folder: Path) -> Path:
    """The checkout without what git ignores."""
    return Path(shutil.copytree(ROOT, folder / "project", ignore=LEFT_OUT))


def run_tests(project: Path, tests: Sequence[str]) -> tuple[int, list[str], str]:
    """pytest in the copy: exit code, names of failed tests, output."""
    # without byte code: an edit within the clock's resolution of file times would go unnoticed by the interpreter
    env = {**os.environ, "PYTHONPATH": str(project), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    options = ["-q", "-rfE", "-p", "no:cacheprovider", "-m", "not slow", "--tb=line"]
    command = [sys.executable, "-m", "pytest", *options, *tests]
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return done.returncode, FAILED.findall(done.stdout), done.stdout + done.stderr


def edit(project: Path, fault: Fault) -> Path:
    """Put the fault in; returns the file.

    Raises:
        ValueError: the text to replace is not there exactly once.
    """
    path = project / "detrex_ext" / fault.file
    text = path.read_text(encoding="utf-8")
    if text.count(fault.old) != 1:
        raise ValueError(f"{fault.name}: {fault.file} holds the text {text.count(fault.old)} times: {fault.old}")
    path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
    return path


def noticed(project: Path, fault: Fault) -> list[str]:
    """The tests that fail with the fault in place; the file is restored."""
    sound = (project / "detrex_ext" / fault.file).read_bytes()
    path = edit(project, fault)
    try:
        return run_tests(project, fault.tests)[1]
    finally:
        path.write_bytes(sound)


def main(words: Sequence[str] = ()) -> int:
    chosen = [f for f in FAULTS if not words or any(w in f.name or w in f.file for w in words)]
    with tempfile.TemporaryDirectory() as folder:
        project = copy_of_the_project(Path(folder))
        tests = sorted({test for fault in chosen for test in fault.tests})
        code, _, output = run_tests(project, tests)
        if code:
            print(f"without any fault, pytest {' '.join(tests)} ends with {code}:\n{output[-4000:]}")
            return 1
        missed = 0
        for fault in chosen:
            start = time.perf_counter()
            failures = noticed(project, fault)
            missed += not failures
            by = f"{len(failures)} failed, first {failures[0]}" if failures else "NOTHING FAILED"
            print(f"{fault.name}\n    {fault.file}: {by}  ({time.perf_counter() - start:.0f} s)", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} faults noticed")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
