"""Counts the faults of ``docs/reliability.md`` and the tests that show them.

    python tests/reliability.py            whether each row names tests that exist, or a reason why it has none
    python tests/reliability.py --run      and whether they pass

Exit code 1 where a row is wrong or a test does not pass.
"""

from __future__ import annotations

import ast
import functools
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reliability.md"
_TEST = re.compile(r"`(tests/[\w/]+\.py)::([\w:]+)`")


class Row(NamedTuple):
    """One fault: its number as the page has it, what goes wrong there, what is done here, and the rest of the row."""

    number: str
    there: str
    here: str
    shown: str

    @property
    def tests(self) -> list[str]:
        """Tests by pytest's names."""
        return ["::".join(test) for test in _TEST.findall(self.shown)]

    def mistakes(self) -> list[str]:
        """What is wrong with the row."""
        found = [f"{test}: there is no such test" for test in self.tests if not exists(test)]
        rest = _TEST.sub("", self.shown).strip(" ,")
        if "`" in rest or (self.tests and rest):
            found.append(f"{rest}: is no test as tests/path.py::test_name")
        if not self.tests and len(rest.split()) < 5:
            found.append("neither a test nor a reason why there is none")
        return [f"{self.number}: {mistake}" for mistake in found]


def rows(text: str | None = None) -> list[Row]:
    """Those of the table, in its order."""
    lines = (PAGE.read_text(encoding="utf-8") if text is None else text).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| F")]
    return [Row(*line) for line in cells]


@functools.cache
def _names(file: str) -> frozenset[str]:
    path = ROOT / file
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body if path.is_file() else ():
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            found |= {f"{node.name}::{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return frozenset(name for name in found if name.split("::")[-1].startswith("test_"))


def exists(test: str) -> bool:
    """Whether a file has a test of that name; nothing is imported."""
    file, name = test.split("::", 1)
    return name in _names(file)


def outcomes(tests: Sequence[str], mark: str) -> dict[str, set[str]]:
    """Test -> outcomes of its cases under a mark, skipped ones aside."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-q", "-rpfE", "-m", mark, "--tb=line", *tests]
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
    found: dict[str, set[str]] = {}
    for outcome, test in re.findall(r"^(PASSED|FAILED|ERROR) (tests/[^\s\[]+)", done.stdout, re.MULTILINE):
        found.setdefault(test, set()).add(outcome)
    return found


def passed(tests: Sequence[str]) -> set[str]:
    """Those of which every case passed that was not skipped, and one at least; slow cases of tests without others."""
    found = outcomes(tests, "not slow")
    left = [test for test in tests if test not in found]
    found |= outcomes(left, "slow") if left else {}
    return {test for test, of_cases in found.items() if of_cases == {"PASSED"}}


def main(argv: Sequence[str]) -> int:
    if list(argv) not in ([], ["--run"]):
        print(__doc__)
        return 2
    found = rows()
    tests = sorted({test for row in found for test in row.tests})
    mistakes = [mistake for row in found for mistake in row.mistakes()]
    for mistake in mistakes:
        print(mistake)
    reasons = sum(not row.tests for row in found)
    wrong = len({mistake.split(":")[0] for mistake in mistakes})
    print(f"{len(found)} faults: {len(found) - reasons - wrong} with tests ({len(tests)}), {reasons} with a reason")
    if mistakes or not argv:
        return 1 if mistakes else 0
    good = passed(tests)
    for test in sorted(set(tests) - good):
        print(f"did not pass: {test}")
    shown = sum(bool(row.tests) and set(row.tests) <= good for row in found)
    print(f"{shown} of {len(found) - reasons} shown by tests that pass")
    return 0 if shown == len(found) - reasons else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
