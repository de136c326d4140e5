"""Runs test files of detectron2 in this process; the outcome of each case is written as JSON.

    python tests/compat/child.py OUTCOMES.json alone|over TESTS FILE...

It is started by `compatibility.py`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from finder import NotServedError, install


class Outcomes:
    """Case -> [outcome, why]: passed, failed, skipped, or absent where a name was used that is not served."""

    def __init__(self) -> None:
        self.of: dict[str, list[str]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo):
        report = yield
        if call.excinfo is None:
            if call.when == "call":
                self.of.setdefault(item.nodeid, ["passed", ""])
        elif report.skipped:
            self.of[item.nodeid] = ["skipped", str(call.excinfo.value)]
        else:
            error = call.excinfo.value
            kind = "absent" if isinstance(error, NotServedError) else "failed"
            text = (str(error).splitlines() or [""])[0][:200]
            self.of[item.nodeid] = [kind, text if kind == "absent" else f"{type(error).__name__}: {text}"]
        return report

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.of[report.nodeid] = ["failed", str(report.longrepr).strip().splitlines()[-1][:300]]


def main(outcomes: str, way: str, tests: str, *files: str) -> None:
    install(Path(tests).parent if way == "over" else None)
    seen = Outcomes()
    os.chdir(tests)
    options = ["-q", "-p", "no:cacheprovider", "--noconftest", "-c", os.devnull, "--rootdir", tests]
    pytest.main([*options, "--tb=short", "-W", "ignore", "--continue-on-collection-errors", *files], plugins=[seen])
    Path(outcomes).write_text(json.dumps(seen.of), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
