"""Runs detectron2's own test files against the standalone runtime and prints what became of them.

    DETECTRON2_TESTS=detectron2/tests python tests/compat/compatibility.py [FILE...]

FILE: as in `expected.py`; all of them by default. The table is that of docs/compatibility.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from expected import ALONE, OVER

HERE = Path(__file__).resolve().parent
VARIABLE = "DETECTRON2_TESTS"
SECONDS = 900


def outcomes(tests: Path, way: str, files: list[str]) -> dict[str, list[str]]:
    """Case -> [outcome, why] of test files, run in a process of their own."""
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, "outcomes.json")
        command = [sys.executable, str(HERE / "child.py"), str(written), way, str(tests), *files]
        env = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=SECONDS)
        if not written.is_file():
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}\n{done.stderr[-3000:]}")
        return json.loads(written.read_text(encoding="utf-8"))


def by_file(found: dict[str, list[str]], file: str) -> list[tuple[str, str, str]]:
    """(name, outcome, why) of the cases of one file."""
    return [(case.rpartition("::")[2], *outcome) for case, outcome in found.items() if case.split("::")[0] == file]


def rows(tests: Path, way: str, files: list[str]) -> list[str]:
    """Lines of the table."""
    found, lines = outcomes(tests, way, files), []
    for file in files:
        of = by_file(found, file)
        count = Counter(kind for _, kind, _ in of)
        reasons = {"alone": ALONE, "over": OVER}[way][file].reasons
        told = [reasons.get(case, f"uses {why}" if kind == "absent" else why) for case, kind, why in of if kind in BAD]
        why = "; ".join(dict.fromkeys(told))
        numbers = " | ".join(str(count[kind]) for kind in ("passed", "failed", "absent", "skipped"))
        lines.append(f"| {file} | {numbers} | {why} |")
    return lines


BAD = ("failed", "absent")


def main(*asked: str) -> None:
    tests = os.environ.get(VARIABLE)
    if not tests:
        sys.exit(f"{VARIABLE} is not set: the tests/ folder of a checkout of detectron2")
    for way, table in (("alone", ALONE), ("over", OVER)):
        files = [file for file in table if not asked or file in asked]
        if files:
            print(f"\n{way}\n\n| file | passed | failed | not served | skipped | why |\n|---|---|---|---|---|---|")
            print("\n".join(rows(Path(tests).resolve(), way, files)))


if __name__ == "__main__":
    main(*sys.argv[1:])
