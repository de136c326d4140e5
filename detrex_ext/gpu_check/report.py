"""What was found, for people and for programs: rewritten whenever something is new, so that no end can lose it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from .results import Result, is_away

_COLUMNS = 9
_SIGNS = {True: "holds", False: "WRONG", None: "-"}


def write(out: Path, head: dict[str, Any], results: Sequence[Result]) -> None:
    """``report.json`` and ``report.md`` of a folder, each replaced as a whole."""
    document = {**head, "held": held(results), "steps": [result.document() for result in results]}
    _replace(out / "report.json", json.dumps(document, indent=1, default=str) + "\n")
    _replace(out / "report.md", markdown(document))


def held(results: Sequence[Result]) -> bool:
    """Whether every step is over and good."""
    return all(result.good for result in results)


def line(result: Result) -> str:
    """A step on the console, with what is wrong below it."""
    rows = result.rows
    note = result.note or _counted(result.document())
    lines = [f"{result.step.name:<16}  {result.state:<8}  {result.seconds:>5.0f} s  {note}"]
    lines += [f"    {name}: {row['note']}" for name, row in rows.items() if row["held"] is False]
    return "\n".join(lines)


def markdown(document: dict[str, Any]) -> str:
    """The report, from what ``report.json`` has."""
    lines = ["# What a GPU says", "", f"`{document['command']}`, {document['began']}"]
    lines += ["", "All of it holds." if document["held"] else "Not all of it holds, or not all of it was asked.", ""]
    rows = [[s["step"], s["state"], f"{s['seconds']:.0f}", _cell(s["note"] or _counted(s))] for s in document["steps"]]
    lines += [tabulate(rows, ("step", "state", "seconds", "note"), "pipe", disable_numparse=True), ""]
    for step in document["steps"]:
        if step["rows"]:
            lines += [f"## {step['step']}", "", step["question"], "", _table(step["rows"]), ""]
        if step["without"]:
            lines += [f"Not asked: {', '.join(step['without'])}.", ""]
    return "\n".join(lines)


def _counted(step: dict[str, Any]) -> str:
    """How many cases there are, and how many say something other than yes."""
    rows = step["rows"]
    wrong, away = (sum(map(said, rows)) for said in (lambda row: row["held"] is False, is_away))
    parts = [f"{len(rows)} cases", f"{wrong} wrong" * bool(wrong), f"{away} not here" * bool(away)]
    return ", ".join(filter(None, [*parts, f"{len(step['without'])} not asked" * bool(step["without"])]))


def _table(rows: list[dict[str, Any]]) -> str:
    """A row for each case; a column for each figure that one of them has, the notes last. Many figures are a list."""
    own = ("case", "held", "note", "seconds")
    figures = list(dict.fromkeys(name for row in rows for name in row if name not in own))
    if len(figures) > _COLUMNS:
        return "\n".join(f"- {row['case']}: {_all_of(row, own)}" for row in rows)
    head = ["case", "", *(name.replace("_", " ") for name in figures), "seconds", "note"]
    table = [
        [row["case"], _SIGNS[row["held"]], *(_cell(row.get(name, "")) for name in figures),
         _cell(row.get("seconds", "")), _cell(row["note"])]
        for row in rows
    ]  # fmt: skip
    return tabulate(table, head, "pipe", disable_numparse=True)


def _all_of(row: dict[str, Any], own: Sequence[str]) -> str:
    told = [f"{name.replace('_', ' ')} {_cell(value)}" for name, value in row.items() if name not in own]
    return "; ".join([*told, *filter(None, [_cell(row["note"])])])


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", "\\|")


def _replace(path: Path, text: str) -> None:
    beside = path.with_suffix(path.suffix + ".part")
    beside.write_text(text, encoding="utf-8", errors="backslashreplace")
    os.replace(beside, path)
