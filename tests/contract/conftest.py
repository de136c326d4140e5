"""After `pytest tests/contract`: the table of hosts x strategies, each cell passed / run."""

from __future__ import annotations

import re

_CELL = re.compile(r"test_contract\.py::test_(?:strategy_on_host|host)\[(.+)\]$")


def pytest_terminal_summary(terminalreporter):
    cells: dict[tuple[str, str], list[bool]] = {}
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, ()):
            found = _CELL.search(report.nodeid)
            if found:
                cells.setdefault(_host_and_strategy(found[1]), []).append(outcome == "passed")
    if not cells:
        return
    hosts, strategies = (list(dict.fromkeys(key[i] for key in sorted(cells))) for i in (0, 1))
    width = max(map(len, hosts))
    terminalreporter.section("contract: passed / run")
    terminalreporter.write_line(" " * width + "".join(f"  {s:>12}" for s in strategies))
    for host in hosts:
        row = (cells.get((host, s)) for s in strategies)
        texts = ("-" if c is None else f"{sum(c)} / {len(c)}" for c in row)
        wide = zip(texts, strategies, strict=True)
        terminalreporter.write_line(f"{host:<{width}}" + "".join(f"  {t:>{max(12, len(s))}}" for t, s in wide))


def _host_and_strategy(name: str) -> tuple[str, str]:
    from .hosts import ALL_HOSTS, STRATEGIES

    host = max((h for h in ALL_HOSTS if name.startswith(f"{h}-")), key=len)
    rest = name[len(host) + 1 :]
    return host, max((s for s in STRATEGIES if rest.startswith(f"{s}-")), key=len, default="alone")
