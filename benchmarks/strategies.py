#!/usr/bin/env python
"""Writes docs/strategies.md and README's table: what each strategy adds, costs and gains, what it composes with.

    python benchmarks/strategies.py                        # tries all pairs, takes costs as they were measured
    python benchmarks/strategies.py --cost --repeats 5     # measures costs first; the machine must be idle
    python benchmarks/strategies.py --cost --overlay sqr --repeats 1 --costs costs.json --output page.md

Overlays are found in `configs/overlays`; pairs and hosts are tried by `pairs.py`, published gains and cases for which
to choose one stand in `strategy_facts.py`. A cost is a forward and a backward pass of two images of 480 pixels, in
turn with the bare host's, and the peak memory of a process of its own. One that is in the file of costs is not
measured again; delete its row for that.
"""

from __future__ import annotations

import argparse
import ast
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from compare import ROOT, commit
from pairs import HOST, HOSTS, OVERLAYS, Outcome, attempt, strategies
from strategy_costs import MODELS, SIDE, TYPES, Costs, changes_model, measure, read
from strategy_facts import FACTS, IN_SHORT, Fact

from detrex_ext.runtime.machine import processor

COSTS, PAGE, README = ROOT / "benchmarks/strategies_cost.json", ROOT / "docs/strategies.md", ROOT / "README.md"
MARK = "<!-- made by python benchmarks/strategies.py -->"


def overlay_doc(name: str) -> str:
    """What an overlay adds: the first sentence of its text, without how to type it."""
    text = ast.get_docstring(ast.parse((OVERLAYS / f"{name}.py").read_text(encoding="utf-8"))) or ""
    return text.split("\n\n")[0].replace("\n", " ").partition(": `--overlay")[0].rstrip(".")


def cost_table(names: Sequence[str], costs: Costs) -> str:
    """Time and memory as multiples of the bare step's."""
    columns = [(title, dtype) for title in MODELS for dtype in TYPES]
    lines = ["| overlay | " + " | ".join(f"{t} {d}" for t, d in columns) + " |", "|---|" + "---|" * len(columns)]
    for name in names:
        model = changes_model(name)
        cells = (_cost_cell(costs.get(f"{name}, {t}, {d}"), model) for t, d in columns)
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cost_cell(row: dict | None, changes_model: bool) -> str:
    if not changes_model:
        return "as bare: data alone"
    if row is None:
        return "not measured yet"
    if "refusal" in row:
        return "-"
    times, more = row["seconds"] / row["bare_seconds"], row["mib"] / row["bare_mib"]
    return f"{row['seconds']:.2f} s (x {times:.2f}), {row['mib']:.0f} MiB (x {more:.2f})"


def short_table(costs: Costs) -> str:
    """The table of README: what is added, what its authors gained, and what a step costs here where that is known."""
    rows = {name: costs.get(f"{name}, Deformable, fp32", {}) for name in IN_SHORT}
    times = {name: f"x {row['seconds'] / row['bare_seconds']:.2f}" for name, row in rows.items() if "seconds" in row}
    columns = ["overlay", "strategy", "added in training", "gain, by its authors", *(["step here"] if times else [])]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for name, (title, adds) in IN_SHORT.items():
        cells = [f"`{name}`", title, adds, FACTS[name].gain, *([times.get(name, "")] if times else [])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def in_readme(text: str, costs: Costs) -> str:
    """README with its table made anew."""
    head, _, rest = text.partition(MARK)
    return head + MARK + "\n" + short_table(costs) + "\n" + MARK + rest.partition(MARK)[2]


def outcome_table(rows: Sequence[str], columns: Sequence[str], outcomes: dict[tuple[str, str], Outcome]) -> str:
    """A mark for each cell, and under the table what the marks mean."""
    notes: dict[str, int] = {}
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + ":-:|" * len(columns)]
    for row in rows:
        cells = []
        for column in columns:
            found = outcomes.get((row, column))
            note = "" if found is None else note_of(found)
            number = notes.setdefault(note, len(notes) + 1) if note else 0
            cells.append("" if found is None else f"{'-' if found.refusal else '~'} {number}" if note else "+")
        lines.append(f"| **{row}** | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"{number}. {note}" for note, number in notes.items())])


def note_of(found: Outcome) -> str:
    """The line under the table for what is more than "composes"; "" for that."""
    if found.refusal:
        return f"refused: {found.refusal}"
    if found.wholly:
        return "the one laid later takes its place wholly"
    return f"the one laid later takes the place of its {', '.join(found.lost)}" if found.lost else ""


def page(names: Sequence[str], costs: Costs) -> str:
    """The whole page."""
    pairs = {(a, b): attempt(HOST, [a, b]) for a in names for b in names if a != b}
    hosts = {(a, title): attempt(config, [a]) for a in names for title, config in HOSTS.items()}
    facts = [(name, overlay_doc(name), FACTS.get(name, Fact())) for name in names]
    what = ["| overlay | what it adds | published gain, by its authors | when to choose it |", "|---|---|---|---|"]
    what += [f"| `{n}` | {doc} | {': '.join(filter(None, [f.source, f.gain])) or '-'} | {f.case or '-'} |"
             for n, doc, f in facts]  # fmt: skip
    made = sorted({f"{r['machine']}, {r['repeats']} repeats, commit {r['commit']}" for r in costs.values()})
    return TEXT.format(
        what="\n".join(what), costs=cost_table(names, costs), made="; ".join(made) or "nothing was measured yet",
        side=SIDE, host=HOST, pairs=outcome_table(names, names, pairs),
        hosts=outcome_table(names, list(HOSTS), hosts), commit=commit(),
        machine=f"{processor()}, {os.cpu_count()} virtual cores, torch {torch.__version__.partition('+')[0]}",
    )  # fmt: skip


TEXT = """# Training strategies

Each is an overlay over every host that has what it needs: `--overlay NAME`, several as `--overlay A,B`, laid from left
to right. The weights stay the host's, and so does inference, but for the suppression of duplicates where an overlay
speaks of it.

*Made by `python benchmarks/strategies.py`, {machine}, commit {commit}; what is judgement stands in
`benchmarks/strategy_facts.py`.*

Gains are those that the authors published, on COCO with R50 where nothing else is said, each over their own host and
recipe; none was measured here. What was measured here, on small sets and a small model, is in
[value.md](../benchmarks/value.md): of all that were tried `dense_o2o,mal` gained most, and was ahead at equal time
on generated shapes, photographs and blood cells;
`python benchmarks/value.py` makes such a table for other data. More, of short trainings:
[benchmarks](../benchmarks/README.md).

{what}

## Cost of a step

Forward, losses and backward pass of two images of {side} x {side}, R50; median of repeats in turn with the bare step,
and the peak of a process of its own; beside each, how many times the bare step's. A dash: the overlay needs what a bare
step has not, such as a teacher. Measured with: {made}. All of it, on an idle machine:

```bash
python benchmarks/strategies.py --cost --repeats 5
```

{costs}

Extra queries cost Deformable more than DINO, although it has fewer: its recipe has dropout in attention, for which a
CPU has no fused kernel.

## Pairs

The overlay of the row is laid first, that of the column over it; over `{host}`, narrow, with one step made.
**+** both act; **~** they go together, but of the row's one a part is gone; **-** refused, for this reason.

{pairs}

## Hosts

One overlay over each host, with one step made.

{hosts}
"""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cost", action="store_true", help="measure what the file of costs lacks; for an idle machine")
    parser.add_argument("--overlay", action="append", metavar="NAME", help="only these; default: all there are")
    parser.add_argument("--repeats", type=int, default=5, metavar="N")
    parser.add_argument("--costs", type=Path, default=COSTS, metavar="FILE")
    parser.add_argument("--output", type=Path, default=PAGE, metavar="FILE")
    args = parser.parse_args()
    names = args.overlay or strategies()
    costs = measure(names, args.costs, args.repeats) if args.cost else read(args.costs)
    args.output.write_text(page(names, costs), encoding="utf-8")
    if args.output == PAGE:
        README.write_text(in_readme(README.read_text(encoding="utf-8"), costs), encoding="utf-8")


if __name__ == "__main__":
    main()
