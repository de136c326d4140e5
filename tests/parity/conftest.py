"""The table of differences, after a run that compared with other projects."""

from __future__ import annotations

from typing import Any

from .gaps import GAPS


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if GAPS:
        terminalreporter.section("largest differences")
        for what, gap in sorted(GAPS.items()):
            terminalreporter.write_line(f"{what:<70} {gap:.1e}")
